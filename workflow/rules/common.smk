# What the other files share. The validated configuration, names for the wildcards, the code each stage runs, and
# functions for the rules' inputs and parameters.

import hashlib
import os
import re
import shlex
import shutil
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

PACKAGE_HOME = Path(workflow.basedir) / "workflow"


def literal(path):
    """A path for an input, of which Snakemake would take braces for names to be replaced."""
    return str(path).replace("{", "{{").replace("}", "}}")


CONDA = {name: f"{literal(workflow.basedir)}/envs/{name}.yaml" for name in ("chem", "report", "train")}
PUBLIC = PACKAGE_HOME / "resources" / "public-molecules.tsv.gz"  # molecules that come with this repository
if os.pathsep in str(PACKAGE_HOME):
    raise WorkflowError(
        f"{PACKAGE_HOME}: no Python finds modules below a folder with '{os.pathsep}' in its name; move it"
    )
sys.path.insert(0, str(PACKAGE_HOME))

from ocsrflow import closure, dates, files, heads, lifeline, provenance
from ocsrflow import config as settings
from ocsrflow.captions import CAPTIONS, caption_of
from ocsrflow.errors import UserError
from ocsrflow.settings.reading import Reading
from ocsrflow.training import parent

try:
    CONFIG = settings.load(config)
except UserError as error:
    raise WorkflowError(str(error))
if missing := settings.missing_files(CONFIG):
    raise WorkflowError("\n  ".join(["the configuration names what is not there:", *missing]))
if refused := parent.refused(settings.parents_elsewhere(CONFIG), CONFIG.split):
    raise WorkflowError("\n  ".join(["models cannot start from the trained ones that they name:", *refused]))

SOURCES = {source.name: source for source in CONFIG.sources}
DATASETS = {dataset.name: dataset for dataset in CONFIG.datasets}
MODELS = {model.name: model for model in CONFIG.models}
BENCHMARKS = {benchmark.name: benchmark for benchmark in CONFIG.benchmarks}
TEST_SETS = settings.test_sets(CONFIG)  # the benchmarks among them
DRAWINGS = {drawing.name: drawing for drawing in CONFIG.drawings}
ALL_DATASETS = dict.fromkeys([*(t.dataset for t in TEST_SETS.values()), *DATASETS])
PICTURE_SETS = {**TEST_SETS, **settings.drawn_sets(CONFIG), settings.SELECTION: settings.selection(CONFIG)}
ENSEMBLES = {ensemble.name: ensemble for ensemble in CONFIG.ensembles}
# The slides' rule bears the ensemble's own name; the others have theirs behind it, the best member of each picture too.
SUFFIXES = ["" if method == "pairs" else f".{method}" for method in CONFIG.methods]
VOTED = [f"{ensemble}{suffix}" for ensemble in ENSEMBLES for suffix in SUFFIXES]
CEILINGS = [f"{ensemble}.oracle" for ensemble in ENSEMBLES]
READERS = [*MODELS, *VOTED, *CEILINGS, *CONFIG.baselines]
# Of ensembles the pair rule. The constant answer reads nothing: it is the same in every drawing.
READERS_OF_DRAWINGS = [*MODELS, *ENSEMBLES, *(name for name in CONFIG.baselines if name != "constant")]
CLOCKED_MODELS = CONFIG.speed.training
CLOCKED_ENSEMBLES = [*ENSEMBLES] if CONFIG.speed.ensembles is None else CONFIG.speed.ensembles


# Each becomes an MLflow run.
RECORDED = [
    f"{CONFIG.results}/recorded/{what}.json"
    for what in [
        *(f"models/{model}" for model in MODELS),
        *(f"scores/{test_set}/{reader}" for test_set in TEST_SETS for reader in READERS),
        *(f"scores/{drawing}/{reader}" for drawing in DRAWINGS for reader in READERS_OF_DRAWINGS),
        *(f"speed/training/{model}" for model in CLOCKED_MODELS),
        *(f"speed/prediction/{ensemble}" for ensemble in CLOCKED_ENSEMBLES),
    ]
]


pathvars:
    results=CONFIG.results,
    logs=f"{CONFIG.results}/logs",
    benchmarks=f"{CONFIG.results}/benchmarks",


def one_of(names):
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    source=one_of(SOURCES),
    dataset=one_of(DATASETS),
    benchmark=one_of(BENCHMARKS),
    drawing=one_of(DRAWINGS),
    model=one_of(MODELS),
    test_set=one_of(PICTURE_SETS),
    ensemble=one_of(ENSEMBLES),
    voted=one_of(VOTED),
    reader=one_of(READERS),
    encoder=one_of({model.network.encoder for model in CONFIG.models}),
    shard=r"\d+",
    speed=r"(training|prediction)/[\w-]+",


# Jobs find the package in this checkout, in the interpreter that runs Snakemake or in the rule's conda environment.
own_python = (
    ""
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
surroundings = {
    "PYTHONPATH": PACKAGE_HOME,
    "PYTHONUNBUFFERED": 1,
    lifeline.HEAD: os.getpid(),
    files.RESULTS: CONFIG.results,
}
exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in surroundings.items())
shell.prefix(literal(f"set -euo pipefail; {own_python}export {exports}; "))


@cache
def modules(*stages):
    """Source files that a stage runs, directly or through others.

    They are among every rule's inputs, so that an edit runs again exactly the stages that use it: Snakemake compares
    inputs of this size by checksum, so that a `touch` or a fresh checkout runs nothing.
    """
    package = literal(os.path.relpath(PACKAGE_HOME / "ocsrflow"))
    return [f"{package}/{path.as_posix()}" for path in closure.files(*stages)]


def templates(page):
    """A page's template and what all pages share."""
    folder = literal(os.path.relpath(PACKAGE_HOME / "ocsrflow" / "templates"))
    return [f"{folder}/{name}" for name in (page, "page.css", "parts.html")]


def raw_corpus(wildcards):
    source = SOURCES[wildcards.source]
    if source.kind == "file":
        return literal(source.path)
    if source.kind == "pictures":
        return literal(source.csv)
    if source.kind == "public":
        return ancient(literal(os.path.relpath(PUBLIC)))  # a fresh checkout gives it the date of now
    return f"{CONFIG.results}/corpus/{source.name}/CID-SMILES.gz"


def source_size(wildcards):
    # So that a source which was replaced by an older file of another size is seen too.
    source = SOURCES[wildcards.source]
    given = {"file": "path", "pictures": "csv"}.get(source.kind)
    path = Path(getattr(source, given)) if given else PUBLIC
    return path.stat().st_size if (given or source.kind == "public") and path.is_file() else None


def source_options(source):
    options = ["--kind", source.kind]
    if source.kind == "pubchem":
        options += [f"--url={source.url}", *([f"--md5-url={source.md5_url}"] if source.md5_url else [])]
    return options


def pictures_options(source):
    if source.kind != "pictures":
        return []
    columns = [f"--file-column={source.file_column}", f"--smiles-column={source.smiles_column}"]
    return ["--form", "pictures", "--pictures", source.pictures, *columns]


def draw_options(wildcards):
    dataset = DATASETS[wildcards.dataset]
    options = ["--max-length", str(dataset.max_length or SOURCES[dataset.source].max_length)]
    if dataset.per_length is not None:
        options += ["--per-length", str(dataset.per_length)]
    if dataset.size is not None:
        options += ["--size", str(dataset.size)]
    return [*options, "--seed", str(dataset.seed)]


def supplied_pictures(source):
    return literal(source.pictures) if source.kind == "pictures" else []


def picture_store(wildcards):
    return f"{CONFIG.results}/corpus/{DATASETS[wildcards.dataset].source}/pictures"


def shard_count(wildcards):
    return settings.shards(CONFIG, DATASETS[wildcards.dataset])


def imagenet_weights(wildcards):
    network = MODELS[wildcards.model].network
    return f"{CONFIG.results}/weights/{network.encoder}.pth" if network.pretrained == "imagenet" else []


def parent_files(wildcards):
    """The trained model that a training starts from, which may be one of this run."""
    model = MODELS[wildcards.model]
    own = settings.parent_in(CONFIG, model)
    folder = settings.model_folder(CONFIG, own) if own else literal(model.network.parent or "")
    return [f"{folder}/weights.safetensors", f"{folder}/model.json"] if folder else []


def training_data(wildcards):
    return f"{CONFIG.results}/datasets/{MODELS[wildcards.model].dataset}/images.h5"


def test_pictures(wildcards):
    return f"{CONFIG.results}/datasets/{PICTURE_SETS[wildcards.test_set].dataset}/images.h5"


def original_pictures(wildcards):
    """The pictures before they were brought to the frame, where they are kept: of drawings and benchmarks."""
    kept = wildcards.test_set in DRAWINGS or wildcards.test_set in BENCHMARKS
    return f"{CONFIG.results}/datasets/{wildcards.test_set}/originals.zip" if kept else []


def training_molecules(wildcards):
    """Where a constant answer is looked for: a benchmark has no training molecules of its own."""
    test_set = CONFIG.test_sets[0] if wildcards.test_set in BENCHMARKS else TEST_SETS[wildcards.test_set]
    return f"{CONFIG.results}/datasets/{test_set.dataset}/images.h5"


def what_lies_in(wildcards):
    """Names, sizes and dates of a benchmark's pictures: Snakemake looks at the date of the folder alone."""
    folder = Path(BENCHMARKS[wildcards.benchmark].images)
    files = sorted(path for path in [folder, *folder.rglob("*")] if path.is_file())
    told = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def which_pictures(wildcards):
    return pictures_of(PICTURE_SETS[wildcards.test_set])


def pictures_of(test_set):
    return ["--split", test_set.split, *(["--size", str(test_set.size)] if test_set.size else [])]


def molecules_of_drawings():
    """Those of the first test set, at most so many."""
    first = CONFIG.test_sets[0]
    sizes = [size for size in (first.size, CONFIG.drawings_size) if size]
    return pictures_of(first.model_copy(update={"size": min(sizes, default=None)}))


def of_each(pattern, **names):
    return expand(f"{CONFIG.results}/{pattern}", **names)


def members_files(pattern):
    """A file of each model of an ensemble, in their order."""
    return lambda wildcards: [
        f"{CONFIG.results}/{pattern.format(model=model, **dict(wildcards.items()))}"
        for model in ENSEMBLES[wildcards.ensemble].models
    ]


def redrawn_members(suffix):
    if "redrawn" not in CONFIG.methods:
        return []
    return members_files(f"redrawn/{{test_set}}/{{model}}{suffix}")


def redrawn_files(folder):
    """How well the candidates of a model fit; an ensemble's answers have that with them."""
    return lambda wildcards: (
        f"{CONFIG.results}/redrawn/{folder.format(**dict(wildcards.items()))}/{wildcards.reader}.parquet"
        if wildcards.reader in MODELS
        else []
    )


def calibration_of(wildcards):
    calibrated = wildcards.reader in MODELS or wildcards.reader in VOTED
    return f"{CONFIG.results}/calibration/{wildcards.reader}.json" if calibrated else []


def option(name, files):
    """A command line option for what is there."""
    files = [files] if isinstance(files, str) else list(files)
    return [name, *files] if files else []


def of_a_step(training):
    """The training settings that a step's speed may depend on: the others measure nothing again."""
    course = {"epochs", "encoder_lr", "decoder_lr", "schedule", "warmup_steps", "gradient_clip", "risk"}
    validation = {"decode_length", "validation_size", "validate_every", "patience"}
    return training.model_dump_json(exclude=course | validation)


def training_gpus(wildcards):
    """GPUs for the largest number of processes; 0 for a model of the CPU."""
    return max(CONFIG.speed.processes) if MODELS[wildcards.model].gpus else 0


def clocked_data(wildcards):
    """What a speed was measured on."""
    kind, name = wildcards.speed.split("/")
    dataset = MODELS[name].dataset if kind == "training" else CONFIG.test_sets[0].dataset
    return f"{CONFIG.results}/datasets/{dataset}/images.h5"


def on_gpu(wildcards):
    return any(MODELS[model].gpus for model in ENSEMBLES[wildcards.ensemble].models)


def ensemble_gpus(wildcards):
    return CONFIG.speed.prediction_gpus if on_gpu(wildcards) else 0


def begin():
    """Before the first job: nothing that is left of an earlier run is at work, and this one is written down."""
    on_slurm = workflow.executor_plugin.name == "slurm"
    head = heads.Head(workflow.scheduler._executor.run_uuid if on_slurm else None)
    head.stop_with_jobs()
    try:
        if on_slurm:
            head.cancel_left_jobs()
        if mended := dates.not_in_future(Path(CONFIG.results)):
            print(
                f"{len(mended)} files of {CONFIG.results} were dated in the future (was the clock set back?): now they have "
                "the date of now",
                file=sys.stderr,
            )
        provenance.begin(CONFIG, Path(workflow.basedir))
    except UserError as error:
        raise WorkflowError(str(error))
    except OSError as error:
        raise WorkflowError(
            f"{error.filename or CONFIG.results}: {error.strerror}; results need a folder that can be written to"
        )


def tell_mlflow(status):
    """How the run ended; and the user, whether MLflow missed something."""
    for line in provenance.missed(CONFIG):
        print(line, file=sys.stderr)
    if find_spec("mlflow"):  # which with --sdm conda only the jobs' environments have
        shell(f"python -m ocsrflow.tracking close {{CONFIG.results:q}} --status {status} || true")
