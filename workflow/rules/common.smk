# What the other files share: the validated configuration and its plan, how jobs find the package, the code each stage
# runs. What a rule's inputs and parameters are is worked out in planning.py.

import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod

PACKAGE_HOME = Path(workflow.basedir) / "workflow"
if os.pathsep in str(PACKAGE_HOME):
    raise WorkflowError(
        f"{PACKAGE_HOME}: no Python finds modules below a folder with '{os.pathsep}' in its name; move it"
    )
sys.path.insert(0, str(PACKAGE_HOME))

from ocsrflow.config import experiment as settings
from ocsrflow.config import given_files, outdated, provenance
from ocsrflow.report import summary
from ocsrflow.report.published import CAPTIONS, caption_of
from ocsrflow.runtime import files, parent_watch
from ocsrflow.runtime.code_version import code_version
from ocsrflow.runtime.errors import UserError
from ocsrflow.config.planning import Plan, given, one_of, option, picture_options
from ocsrflow.config.reading import Reading
from ocsrflow.config.searches import space_to_json
from ocsrflow.training import parent

try:
    CONFIG = settings.load(config)
except UserError as error:
    raise WorkflowError(str(error))
if missing := given_files.missing_files(CONFIG):
    raise WorkflowError("\n  ".join(["the configuration names what is not there:", *missing]))
if refused := parent.refused(given_files.parents_elsewhere(CONFIG), CONFIG.split):
    raise WorkflowError("\n  ".join(["models cannot start from the trained ones that they name:", *refused]))


def cannot_write(error):
    """The error of a results folder that the system refuses to write to."""
    folder = error.filename or CONFIG.results
    return WorkflowError(f"{folder}: {error.strerror}; results need a folder that can be written to")


try:
    outdated.date_back(CONFIG)
except OSError as error:
    raise cannot_write(error)

plan = Plan(CONFIG)


def escaped(text):
    """Text that Snakemake formats: braces in a folder's name are no names to be replaced."""
    return text.replace("{", "{{").replace("}", "}}")


CONDA = {name: f"{escaped(workflow.basedir)}/envs/{name}.yaml" for name in ("chem", "report", "train")}


pathvars:
    results=CONFIG.results,
    logs=f"{CONFIG.results}/logs",
    benchmarks=f"{CONFIG.results}/benchmarks",


# Snakemake replaces these names in inputs and outputs itself; this does it in parameters.
fill_paths = workflow.pathvars.apply


wildcard_constraints:
    source=one_of(plan.sources),
    dataset=one_of(plan.datasets),
    benchmark=one_of(plan.benchmarks),
    drawing=one_of(plan.drawings),
    model=one_of(plan.models),
    member=one_of(plan.members_of_any),
    test_set=one_of(plan.picture_sets),
    ensemble=one_of(plan.ensembles),
    reader=one_of(plan.readers),
    encoder=one_of(plan.encoders),
    search=one_of(plan.searches),
    rung=r"\d+",
    place=r"\d+",
    shard=r"\d+",


# Jobs find the package in this checkout, in the interpreter that runs Snakemake or in the rule's conda environment.
own_python = (
    ""
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
    else f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)
environment = {
    "PYTHONPATH": PACKAGE_HOME,
    "PYTHONUNBUFFERED": 1,
    parent_watch.SNAKEMAKE: os.getpid(),
    files.RESULTS: CONFIG.results,
}
exports = " ".join(f"{name}={shlex.quote(str(value))}" for name, value in environment.items())
shell.prefix(escaped(f"set -euo pipefail; {own_python}export {exports}; "))


def templates(page):
    """A page's template and what all pages share."""
    folder = os.path.relpath(PACKAGE_HOME / "ocsrflow" / "report" / "templates")
    return [f"{folder}/{name}" for name in (page, "page.css", "parts.html")]


def raw_corpus(wildcards):
    corpus = plan.raw_corpus(wildcards)
    # A fresh checkout gives the molecules of the repository the date of now.
    return ancient(corpus) if plan.source_of(wildcards).kind == "public" else corpus


def begin():
    """Before the first job: a signal to Snakemake stops its jobs too, and the run is written down."""
    parent_watch.stop_jobs_on_signal()
    try:
        provenance.begin(CONFIG, Path(workflow.basedir))
    except UserError as error:
        raise WorkflowError(str(error))
    except OSError as error:
        raise cannot_write(error)


def last_words():
    """The report's numbers, where this run has written it."""
    path = Path(CONFIG.results) / "report" / "summary.json"
    if path.is_file() and path.stat().st_mtime > (Path(CONFIG.results) / provenance.WORKFLOW).stat().st_mtime:
        try:
            print(summary.in_words(files.read_json(path), Path(CONFIG.results)), file=sys.stderr)
        except UserError as error:
            print(error, file=sys.stderr)


def close_mlflow(status):
    """Write down how the run ended."""
    if find_spec("mlflow"):  # which with --sdm conda only the jobs' environments have
        shell(f"python -m ocsrflow close {{CONFIG.results:q}} --status {status} || true")
