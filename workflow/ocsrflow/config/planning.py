"""What follows from a configuration: the names that rules go through, their inputs and their command line options.

Paths of results begin with ``<results>``, which Snakemake replaces. Methods that take ``wildcards`` are for rules: they
are given those of a job, whose values are attributes.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from . import searches
from .experiment import SELECTION, Config, longest_text, model_folder, parent_in
from .searches import Search
from .sections import Dataset, Model, Source, TestSet

Wildcards = Any
PUBLIC = Path(__file__).parents[2] / "resources" / "public-molecules.tsv.gz"  # comes with this repository


class Plan:
    """The experiment's parts by their names, and what each job needs of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sources = {source.name: source for source in config.sources}
        self.datasets = {dataset.name: dataset for dataset in config.datasets}
        self.models = {model.name: model for model in config.models}
        self.benchmarks = {benchmark.name: benchmark for benchmark in config.benchmarks}
        self.drawings = {drawing.name: drawing for drawing in config.drawings}
        self.ensembles = {ensemble.name: ensemble for ensemble in config.ensembles}
        self.searches = {search.name: search for search in config.searches}
        self.encoders = {model.network.encoder for model in config.models}
        self.encoders |= {encoder for search in config.searches for encoder in self._searched_encoders(search)}
        self.main = config.test_sets[0]  # the report's test set, whose molecules the drawings show
        # Benchmarks and drawings are data sets of their own names.
        of_benchmarks, of_drawings = (
            [TestSet(name=name, dataset=name, split="test") for name in names]
            for names in (self.benchmarks, self.drawings)
        )
        self.test_sets = {test_set.name: test_set for test_set in [*config.test_sets, *of_benchmarks]}
        # The validation pictures that members are selected and confidences calibrated on.
        chosen = config.selection.dataset or self.main.dataset
        selection = TestSet(name=SELECTION, dataset=chosen, split="validation", size=config.selection.size)
        # Every set of pictures that is read.
        self.picture_sets = self.test_sets | {test_set.name: test_set for test_set in [*of_drawings, selection]}
        scored = [test_set.dataset for test_set in self.test_sets.values()]
        self.packed = list(dict.fromkeys([*scored, *self.datasets]))  # files of pictures, without the drawings
        # The slides' rule bears the ensemble's own name; the others have theirs behind it, the best member of each
        # picture too.
        self.suffixes = ["" if method == "pairs" else f".{method}" for method in config.methods]
        self.members_of_any = {member for ensemble in config.ensembles for member in ensemble.models} | {*self.models}
        self.voted = [f"{ensemble}{suffix}" for ensemble in self.ensembles for suffix in self.suffixes]
        ceilings = [f"{ensemble}.oracle" for ensemble in self.ensembles]
        self.readers = [*self.models, *self.voted, *ceilings, *config.baselines]
        # Of ensembles the pair rule. The constant answer reads nothing: it is the same in every drawing.
        self.readers_of_drawings = [*self.models, *self.ensembles, *(b for b in config.baselines if b != "constant")]
        self.timed_models = config.speed.training
        self.timed_ensembles = [*self.ensembles] if config.speed.ensembles is None else config.speed.ensembles

    # Molecules and pictures

    def source_of(self, wildcards: Wildcards) -> Source:
        """The source of a corpus or of a data set."""
        return self.sources[wildcards.get("source") or self.datasets[wildcards.dataset].source]

    def raw_corpus(self, wildcards: Wildcards) -> str:
        """File with a source's molecules."""
        source = self.source_of(wildcards)
        if source.kind == "file":
            return source.path
        if source.kind == "pictures":
            return source.csv
        if source.kind == "public":
            return os.path.relpath(PUBLIC)
        return f"<results>/corpus/{source.name}/CID-SMILES.gz"

    def source_size(self, wildcards: Wildcards) -> int | None:
        """Bytes of a file that no rule makes: one that was replaced by an older file of another size is seen too."""
        path = Path(self.raw_corpus(wildcards))
        return path.stat().st_size if path.is_file() else None

    def source_options(self, wildcards: Wildcards) -> list[str]:
        """Where the stage ``download`` finds a source."""
        source = self.source_of(wildcards)
        options = ["--kind", source.kind]
        if source.kind == "pubchem":
            options += [f"--url={source.url}", *([f"--md5-url={source.md5_url}"] if source.md5_url else [])]
        return options

    def pictures_options(self, wildcards: Wildcards) -> list[str]:
        """How the stage ``filter`` reads a source of supplied pictures."""
        source = self.source_of(wildcards)
        if source.kind != "pictures":
            return []
        columns = [f"--file-column={source.file_column}", f"--smiles-column={source.smiles_column}"]
        return ["--form", "pictures", "--pictures", source.pictures, *columns]

    def supplied_pictures(self, wildcards: Wildcards) -> list[str]:
        """Folder or archive of a source's own pictures."""
        source = self.source_of(wildcards)
        return [source.pictures] if source.kind == "pictures" else []

    def sample_options(self, wildcards: Wildcards) -> list[str]:
        """Which molecules the stage ``sample`` takes."""
        dataset = self.datasets[wildcards.dataset]
        options = ["--max-length", str(longest_text(self.config, dataset))]
        if dataset.per_length is not None:
            options += ["--per-length", str(dataset.per_length)]
        if dataset.size is not None:
            options += ["--size", str(dataset.size)]
        return [*options, "--seed", str(dataset.seed)]

    def of_source(self, file: str) -> Callable[[Wildcards], str]:
        """For an input or a parameter: a file or folder of the corpus that a data set is sampled from."""
        return lambda wildcards: f"<results>/corpus/{self.source_of(wildcards).name}/{file}"

    def shards(self, wildcards: Wildcards) -> int:
        """Jobs that a data set's drawing is divided into."""
        return shards(self.config, self.datasets[wildcards.dataset])

    def shard_indices(self, wildcards: Wildcards) -> list[str]:
        """Files that say where the pictures of a data set are."""
        folder = f"<results>/datasets/{wildcards.dataset}/shards"
        return [f"{folder}/{shard}.parquet" for shard in range(self.shards(wildcards))]

    def files_of_benchmark(self, wildcards: Wildcards) -> str:
        """A hash of names, sizes and dates of a benchmark's pictures: of a folder Snakemake looks at the date alone."""
        folder = Path(self.benchmarks[wildcards.benchmark].images)
        files = sorted(path for path in [folder, *folder.rglob("*")] if path.is_file())
        stats = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]

    def drawn_molecules(self) -> TestSet:
        """Which molecules are drawn in the named drawings: those of the first test set, at most so many."""
        sizes = [size for size in (self.main.size, self.config.drawings_size) if size]
        return self.main.model_copy(update={"size": min(sizes, default=None)})

    # Models

    def model_of(self, wildcards: Wildcards) -> Model:
        """The model of a job, or the one whose settings a search varies, with the length of its last rung."""
        if name := wildcards.get("model"):
            return self.models[name]
        search = self.searches[wildcards.search]
        return searches.whole_length(search, self.models[search.model])

    def training_data(self, wildcards: Wildcards) -> str:
        """The data set that a model learns from."""
        return f"<results>/datasets/{self.model_of(wildcards).dataset}/images.h5"

    def imagenet_weights(self, wildcards: Wildcards) -> list[str]:
        """ImageNet weights that a training starts from; of a search those of all encoders that are tried."""
        network, encoders = self.model_of(wildcards).network, []
        if network.pretrained == "imagenet":
            of_search = self._searched_encoders(self.searches[wildcards.search]) if wildcards.get("search") else []
            encoders = of_search or [network.encoder]
        return [f"<results>/weights/{encoder}.pth" for encoder in encoders]

    def parent_files(self, wildcards: Wildcards) -> list[str]:
        """The trained model that a training starts from, which may be one of this run."""
        model = self.model_of(wildcards)
        own = parent_in(self.config, model)
        folder = model_folder(self.config, own) if own else model.network.parent or ""
        return [f"{folder}/weights.safetensors", f"{folder}/model.json"] if folder else []

    def gpus(self, wildcards: Wildcards) -> int:
        """GPUs of a training."""
        return self.model_of(wildcards).gpus

    def reading_gpus(self, wildcards: Wildcards) -> int:
        """GPUs for a model that reads."""
        return min(1, self.models[wildcards.model].gpus)

    def rescoring_gpus(self, wildcards: Wildcards) -> int:
        """GPUs for the models of an ensemble, one after the other."""
        return int(any(self.models[model].gpus for model in self.trained_members(wildcards)))

    # Searches

    def _searched_encoders(self, search: Search) -> list[Any]:
        """Encoders that a search tries; none where it leaves the model's."""
        values = search.space.get("network.encoder", [])
        return values if isinstance(values, list) else []

    def promoted(self, wildcards: Wildcards) -> list[str]:
        """Which trials of the rung before a trial is one of; in the first rung it is told by its number."""
        rung = int(wildcards.rung)
        return [f"<results>/searches/{wildcards.search}/rung-{rung - 1}.json"] if rung else []

    def places(self, wildcards: Wildcards) -> int:
        """Trials of a rung."""
        return self.searches[wildcards.search].places[int(wildcards.rung)]

    def trials_of_rung(self, wildcards: Wildcards) -> list[str]:
        """Files of the trials of a rung."""
        folder = f"<results>/searches/{wildcards.search}/rung-{wildcards.rung}"
        return [f"{folder}/{place}.json" for place in range(self.places(wildcards))]

    def trials_of_search(self, wildcards: Wildcards) -> list[str]:
        """Files of the trials of all rungs."""
        folder, places = f"<results>/searches/{wildcards.search}", self.searches[wildcards.search].places
        return [f"{folder}/rung-{rung}/{place}.json" for rung, n in enumerate(places) for place in range(n)]

    def searched_entry(self, wildcards: Wildcards) -> str:
        """The model's entry in the configuration, as JSON with what is set there alone."""
        return self.model_of(wildcards).model_dump_json(exclude_unset=True)

    # Test sets

    def test_pictures(self, wildcards: Wildcards) -> str:
        """The data set of a test set."""
        return f"<results>/datasets/{self.picture_sets[wildcards.test_set].dataset}/images.h5"

    def original_pictures(self, wildcards: Wildcards) -> list[str]:
        """The pictures before they were brought to the frame, where they are kept: of drawings and benchmarks."""
        kept = wildcards.test_set in self.drawings or wildcards.test_set in self.benchmarks
        return [f"<results>/datasets/{wildcards.test_set}/originals.zip"] if kept else []

    def training_molecules(self, wildcards: Wildcards) -> str:
        """Where a constant answer is looked for: a benchmark has no training molecules of its own."""
        test_set = self.main if wildcards.test_set in self.benchmarks else self.test_sets[wildcards.test_set]
        return f"<results>/datasets/{test_set.dataset}/images.h5"

    def picture_options(self, wildcards: Wildcards) -> list[str]:
        """Which pictures of its data set a test set has."""
        return picture_options(self.picture_sets[wildcards.test_set])

    # Ensembles and readers

    def members(self, wildcards: Wildcards) -> list[str]:
        """Members of an ensemble in their order: it decides ties, and Snakemake compares inputs as a set."""
        return self.ensembles[wildcards.ensemble].models

    def of_members(self, pattern: str) -> Callable[[Wildcards], list[str]]:
        """For an input: a file of each member of an ensemble."""
        return lambda wildcards: [
            pattern.format(member=member, **dict(wildcards.items())) for member in self.members(wildcards)
        ]

    def trained_members(self, wildcards: Wildcards) -> list[str]:
        """The members of an ensemble without OSRA."""
        return [member for member in self.members(wildcards) if member in self.models]

    def of_trained_members(self, file: str) -> Callable[[Wildcards], list[str]]:
        """For an input: a file of each trained model of an ensemble."""
        return lambda wildcards: [f"<results>/models/{model}/{file}" for model in self.trained_members(wildcards)]

    def redrawn_of_members(self, form: str) -> Callable[[Wildcards], list[str]]:
        """For an input: how well the candidates of each model of an ensemble fit, where a method needs that."""
        wanted = "redrawn" in self.config.methods
        return self.of_members(f"<results>/redrawn/{{test_set}}/{{member}}.{form}") if wanted else lambda wildcards: []

    def redrawn(self, test_set: str) -> Callable[[Wildcards], list[str]]:
        """For an input: how well the candidates of a model fit; an ensemble's answers have that with them."""

        def files(wildcards: Wildcards) -> list[str]:
            folder = f"<results>/redrawn/{test_set}".format(**dict(wildcards.items()))
            return [f"{folder}/{wildcards.reader}.parquet"] if wildcards.reader in self.models else []

        return files

    def calibration(self, wildcards: Wildcards) -> list[str]:
        """How the confidences of a reader are computed, where it has any."""
        calibrated = wildcards.reader in self.models or wildcards.reader in self.voted
        return [f"<results>/calibration/{wildcards.reader}.json"] if calibrated else []

    # Speed

    def step_settings(self, wildcards: Wildcards) -> str:
        """The training settings that a step's speed may depend on: the others measure nothing again."""
        schedule = {"epochs", "encoder_lr", "decoder_lr", "schedule", "warmup_steps", "gradient_clip", "risk"}
        validation = {"decode_length", "validation_size", "validate_every", "patience"}
        return self.models[wildcards.model].training.model_dump_json(exclude=schedule | validation)

    def most_gpus(self, wildcards: Wildcards) -> int:
        """GPUs for the largest number of processes that is measured; 0 for a model of the CPU."""
        return max(self.config.speed.processes) if self.models[wildcards.model].gpus else 0

    def side_by_side_gpus(self, wildcards: Wildcards) -> int:
        """GPUs for the models of an ensemble that read side by side."""
        return self.config.speed.prediction_gpus if self.rescoring_gpus(wildcards) else 0

    # Report and MLflow

    def report_texts(self) -> list[str]:
        """Title and note. They may begin with a dash: joined by "=", none is taken for another option."""
        texts = {"title": self.config.report.title, "note": self.config.report.note}
        return [f"--{name}={text}" for name, text in texts.items() if text]

    def robustness(self) -> list[str]:
        """Rows of the table of robustness: the first test set as it is, its drawings, the benchmarks."""
        return option("--robustness", [self.main.name, *self.drawings, *self.benchmarks] if self.drawings else [])

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


def one_of(names: Iterable[str]) -> str:
    """A regular expression that matches these names and no others."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def shards(config: Config, dataset: Dataset) -> int:
    """Jobs that a data set's drawing is divided into; one where nothing bounds its size."""
    if dataset.shards is not None:
        return dataset.shards
    most = dataset.per_length * longest_text(config, dataset) if dataset.per_length else None
    bounds = [bound for bound in (dataset.size, most) if bound is not None]
    return -(-min(bounds) * dataset.drawings // config.rendering.shard_size) if bounds else 1


def picture_options(test_set: TestSet) -> list[str]:
    """Which pictures of its data set a test set has."""
    return ["--split", test_set.split, *option("--size", test_set.size)]


def option(name: str, values: Any) -> list[str]:
    """A command line option with its values, one or several; nothing where there are none."""
    several = [values] if isinstance(values, str | int) else list(values or [])
    return [name, *map(str, several)] if several else []


def given(*names: str) -> Callable[[Wildcards, Any], list[str]]:
    """For a parameter: an option for each of these inputs that has files, named after it."""

    def options(wildcards: Wildcards, input: Any) -> list[str]:
        found: list[str] = []
        for name in names:
            found += option(f"--{name.replace('_', '-')}", input.get(name))
        return found

    return options
