"""The command ``ocsrflow``: a sub-command for each stage and each tool, whose module is imported when it is called."""

import difflib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from typing import NoReturn

# In the order of the experiment: the module below the package, its function, and what it does.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "config": ("config.show", "config", "Check a configuration; print its schema or the table of settings"),
    "download": ("corpus.download", "download", "Bring a source's molecules here"),
    "filter": ("corpus.filter", "filter_corpus", "Keep the molecules that are short enough and distinct"),
    "sample": ("corpus.sample", "sample", "Sample a data set's molecules and split them"),
    "render": ("pictures.render", "render", "Draw the pictures of one shard of a data set"),
    "pack": ("pictures.pack", "pack", "Pack pictures and tokens of a data set into one file"),
    "benchmark_set": ("pictures.benchmark_set", "benchmark_set", "Bring a benchmark's pictures into shape"),
    "draw_set": ("pictures.draw_set", "draw_set", "Draw a test set's molecules in another style"),
    "weights": ("network.weights", "weights", "Bring an encoder's ImageNet weights here"),
    "launch": ("training.launch", "launch", "Run another command in several processes under torchrun, on leased GPUs"),
    "train": ("training.train", "train", "Train one model; go on from its last checkpoint"),
    "trial": ("search.trial", "trial", "Train one trial of a search up to the end of a rung"),
    "promote": ("search.promote", "promote", "Choose the trials of a rung that go on to the next one"),
    "search_table": ("search.search_table", "search_table", "Write what a search found, and its best settings"),
    "predict": ("prediction.predict", "predict", "Read a test set with one model"),
    "redraw": ("prediction.redraw", "redraw", "Draw what a model read and compare it with the pictures"),
    "rescore": ("prediction.rescore", "rescore", "Let the models of an ensemble score each other's candidates"),
    "choose": ("ensemble.choose", "choose", "Choose an ensemble's members by their validation scores"),
    "vote": ("ensemble.vote", "vote", "Let the models of an ensemble vote"),
    "calibrate": ("ensemble.calibrate", "calibrate", "Learn confidences on validation pictures"),
    "score": ("evaluation.score", "score", "Score what was read in a test set"),
    "constant": ("evaluation.constant", "constant", "Find the best constant answer, a baseline"),
    "osra": ("evaluation.osra", "osra", "Read a test set with OSRA, a baseline"),
    "speed_training": (
        "evaluation.speed_training",
        "speed_training",
        "Measure a training's speed, by number of processes",
    ),
    "clocked_training": ("evaluation.clocked_training", "clocked_training", "Time the steps of one such training"),
    "speed_prediction": ("evaluation.speed_prediction", "speed_prediction", "Measure an ensemble side by side"),
    "evaluate": ("evaluation.evaluate", "metrics", "Score anybody's predictions: two CSV files with id,smiles"),
    "compare": ("evaluation.compare", "compare", "Compare two folders of results"),
    "tracking": ("tracking.tracking", "tracking", "Prepare MLflow's store and experiment"),
    "record": ("tracking.record", "record", "Record all results in MLflow"),
    "record_search": ("tracking.record_search", "record_search", "Record a search in MLflow"),
    "close": ("tracking.tracking", "close", "Mark the workflow's MLflow run as ended"),
    "ui": ("tracking.ui", "ui", "Browse the MLflow runs of a folder of results"),
    "attend": ("report.attend", "attend", "Draw where a model looked"),
    "browse": ("report.browse", "browse", "Write a page that shows what is in a data set"),
    "search_page": ("report.search_page", "search_page", "Write a page that shows a search"),
    "report": ("report.report", "report", "Write the report"),
    "read": ("reader.read", "read", "Read pictures of your own with trained models"),
    "status": ("runtime.status", "status", "Show how far a run of the workflow is"),
}


def overview() -> str:
    """All commands with a line each, by the folder of the package that they are in."""
    width = max(map(len, COMMANDS))
    lines = ["Usage: ocsrflow COMMAND ...", "", "`ocsrflow COMMAND --help` shows what a command takes."]
    for folder, names in groupby(COMMANDS, lambda name: COMMANDS[name][0].partition(".")[0]):
        lines += ["", folder, *(f"  {name:{width}}  {COMMANDS[name][2]}" for name in names)]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command line, by default that of this process, and leave the process."""
    name, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if name in ("--help", "-h"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who reads it may leave
        print(overview())
        sys.exit(0)
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {close[0]}?" if close else "ocsrflow --help lists them"
        print(f"ocsrflow: error: no command {name!r}; {meant}", file=sys.stderr)
        sys.exit(2)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports ends without a page of traceback
    from .runtime.cli import run  # here, so that the overview is there at once

    module, function, _ = COMMANDS[name]
    run(getattr(import_module(f"ocsrflow.{module}"), function), rest, name=f"ocsrflow {name}")


if __name__ == "__main__":
    main()
