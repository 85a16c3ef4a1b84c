"""What is made of a configuration: the names that rules and stages go through."""

from .config import Config, drawn_sets, selection, test_sets


class Plan:
    """The experiment's parts by their names."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sources = {source.name: source for source in config.sources}
        self.datasets = {dataset.name: dataset for dataset in config.datasets}
        self.models = {model.name: model for model in config.models}
        self.benchmarks = {benchmark.name: benchmark for benchmark in config.benchmarks}
        self.drawings = {drawing.name: drawing for drawing in config.drawings}
        self.ensembles = {ensemble.name: ensemble for ensemble in config.ensembles}
        self.test_sets = test_sets(config)  # the benchmarks among them
        chosen_on = selection(config)
        # Every set of pictures that is read.
        self.picture_sets = {**self.test_sets, **drawn_sets(config), chosen_on.name: chosen_on}
        self.main = config.test_sets[0]  # the report's test set, whose molecules the drawings show
        # The slides' rule bears the ensemble's own name; the others have theirs behind it, the best member of each
        # picture too.
        self.suffixes = ["" if method == "pairs" else f".{method}" for method in config.methods]
        self.voted = [f"{ensemble}{suffix}" for ensemble in self.ensembles for suffix in self.suffixes]
        ceilings = [f"{ensemble}.oracle" for ensemble in self.ensembles]
        self.readers = [*self.models, *self.voted, *ceilings, *config.baselines]
        # Of ensembles the pair rule. The constant answer reads nothing: it is the same in every drawing.
        self.readers_of_drawings = [*self.models, *self.ensembles, *(b for b in config.baselines if b != "constant")]
        self.timed_models = config.speed.training
        self.timed_ensembles = [*self.ensembles] if config.speed.ensembles is None else config.speed.ensembles

    def recorded(self) -> dict[str, list[str]]:
        """Each result that becomes an MLflow run, with the data sets that it read.

        Models are before their scores, which name them; the report, which lists all the others, is the last.
        """
        scored = [(test_set, reader) for test_set in self.test_sets for reader in self.readers]
        scored += [(drawing, reader) for drawing in self.drawings for reader in self.readers_of_drawings]
        return {
            **{f"models/{name}": [model.dataset] for name, model in self.models.items()},
            **{f"speed/training/{name}": [self.models[name].dataset] for name in self.timed_models},
            **{f"speed/prediction/{name}": [self.main.dataset] for name in self.timed_ensembles},
            **{f"scores/{name}/{reader}": [self.picture_sets[name].dataset] for name, reader in scored},
            "report": list(dict.fromkeys(test_set.dataset for test_set in self.test_sets.values())),
        }
