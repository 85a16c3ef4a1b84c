"""What a dry run plans, and what it should: the rules of the toy experiment and what depends on each."""

import re
from pathlib import Path

import yaml

from support.checkout import CONFIG, copy_checkout, snakemake

SPEED = {"speed_training", "speed_prediction"}
AFTER = {
    "download": {"filter"},
    "filter": {"sample", "browse", "report"},
    "sample": {"render", "pack", "browse", "report"},
    "render": {"pack"},
    "pack": {
        *("browse", "draw_set", "train", "predict", "redraw", "rescore", "constant", "osra", "attend", "report"),
        *(*SPEED, "record"),
    },
    "browse": set(),
    "benchmark_set": {"predict", "redraw", "rescore", "constant", "osra", "report", "record"},
    "draw_set": {"predict", "redraw", "rescore", "osra", "report", "record"},
    "weights": set(),  # the toy has no ImageNet weights
    "train": {"predict", "rescore", "speed_prediction", "attend", "report", "record"},
    "predict": {"redraw", "choose", "rescore", "vote", "calibrate", "score", "attend", "report", "record"},
    "redraw": {"vote", "calibrate", "score"},
    "choose": {"vote", "speed_prediction", "report"},
    "rescore": {"vote"},
    "vote": {"calibrate", "score", "report", "record"},
    "calibrate": {"score", "record"},
    "constant": {"score", "report", "record"},
    "osra": {"score", "report", "record"},
    "score": {"attend", "report", "record"},  # a model's run has its scores in drawings
    "attend": {"report"},
    "speed_training": {"report", "record"},
    "speed_prediction": {"report", "record"},
    "tracking": {"record"},
    "report": {"record"},
    "record": set(),
}
# Members are chosen and confidences learnt on validation pictures, whatever benchmarks and drawings there are.
OF_A_DRAWING = {"draw_set", "predict", "redraw", "rescore", "vote", "osra", "score", "report", "record"}
OF_A_BENCHMARK = (OF_A_DRAWING - {"draw_set"}) | {"benchmark_set", "constant"}
# What of these is scored again is no single model, whose attention is drawn and whose run has scores in drawings.
OF_ENSEMBLES = {"choose", "rescore", "vote", "constant", "osra", *SPEED, "record"}


def with_followers(rules: set[str]) -> set[str]:
    """The rules and all that depend on them, in the toy experiment."""
    for rule, own in (("benchmark_set", OF_A_BENCHMARK), ("draw_set", OF_A_DRAWING)):
        if rule in rules and rules <= {"benchmark_set", "draw_set", "record"}:
            return own | with_followers(rules - {rule})
    found, todo = set(), [rule for rule in rules if rule != "weights"]
    while todo:
        rule = todo.pop()
        if rule not in found:
            found.add(rule)
            todo += AFTER[rule]
    return found - ({"attend"} - rules) if rules <= OF_ENSEMBLES else found


def make_pretended(folder: Path) -> Path:
    """A new checkout in which the toy experiment looks finished to Snakemake: its outputs are empty files."""
    copy_checkout(folder)
    options = ("--cores", "2", "--configfile", CONFIG)
    for line in snakemake(folder, *options, "--summary").stdout.splitlines()[1:]:
        output = folder / line.partition("\t")[0]
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.name == "figures":
            output.mkdir(exist_ok=True)
        else:
            output.touch()
    snakemake(folder, *options, "--touch", "--forceall")
    return folder


def planned(folder: Path, *options: str) -> tuple[set[str], set[str]]:
    """Jobs by their messages, and rules by their names, that a dry run lists."""
    cores = [] if "--cores" in options else ["--cores", "2"]
    text = snakemake(folder, "-n", *cores, "--configfile", CONFIG, *options).stdout
    jobs = set(re.findall(r"^Job \d+: (.*)$", text, flags=re.MULTILINE))
    rules = set(re.findall(r"^(\w+) +\d+$", text, flags=re.MULTILINE)) - {"total", "all"}
    if not jobs:
        assert "Nothing to be done" in text
    return jobs, rules


def edit(folder: Path, **changes: object) -> dict:
    """Change keys of the toy's configuration."""
    config = yaml.safe_load((folder / CONFIG).read_text())
    config |= changes
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    return config
