# What the rule files share: the validated configuration, names for the wildcards, and the code each stage runs.

import ast
import os
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

PACKAGE_HOME = Path(workflow.basedir) / "workflow"
sys.path.insert(0, str(PACKAGE_HOME))

from ocsrflow import config as settings
from ocsrflow.errors import UserError

try:
    CONFIG = settings.load(config)
except UserError as error:
    raise WorkflowError(str(error))

SOURCES = {source.name: source for source in CONFIG.sources}
DATASETS = {dataset.name: dataset for dataset in CONFIG.datasets}
MODELS = {model.name: model for model in CONFIG.models}
TEST_SETS = {test_set.name: test_set for test_set in CONFIG.test_sets}
ENSEMBLES = {ensemble.name: ensemble for ensemble in CONFIG.ensembles}
READERS = [*MODELS, *ENSEMBLES, *CONFIG.baselines]


pathvars:
    results=CONFIG.results,
    logs=f"{CONFIG.results}/logs",
    benchmarks=f"{CONFIG.results}/benchmarks",


def one_of(names):
    return "|".join(names) or "(?!)"


wildcard_constraints:
    source=one_of(SOURCES),
    dataset=one_of(DATASETS),
    model=one_of(MODELS),
    test_set=one_of(TEST_SETS),
    ensemble=one_of(ENSEMBLES),
    baseline=one_of(CONFIG.baselines),
    reader=one_of(READERS),
    encoder=one_of({model.network.encoder for model in CONFIG.models}),
    shard=r"\d+",


# Jobs find the package in this checkout, in the interpreter that runs Snakemake or in the rule's conda environment.
own_python = (
    ""
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else f"export PATH={Path(sys.executable).parent}:$PATH; "
)
shell.prefix(
    f"set -euo pipefail; {own_python}export PYTHONPATH={PACKAGE_HOME} PYTHONUNBUFFERED=1; "
)


@cache
def imports(name):
    """The package's modules that one of its files imports itself, as dotted names below the package."""
    path = PACKAGE_HOME / "ocsrflow" / Path(*name.split(".")).with_suffix(".py")
    below = name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = below[: len(below) - node.level + 1] + (node.module or "").split(".")
            base = [part for part in base if part]
            targets = [base] if node.module else [base + [alias.name] for alias in node.names]
            found |= {".".join(target) for target in targets}
    return found


@cache
def modules(*stages):
    """Source files that a stage runs, directly or through others.

    They are among every rule's inputs, so that an edit runs again exactly the stages that use it: Snakemake compares
    inputs of this size by checksum, so that a `touch` or a fresh checkout runs nothing.
    """
    todo, seen = list(stages), set()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports(name)
    package = os.path.relpath(PACKAGE_HOME / "ocsrflow")
    return sorted(f"{package}/{name.replace('.', '/')}.py" for name in seen)
