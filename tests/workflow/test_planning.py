"""What is planned: of thousands of shards every one once, and after each kind of edit what depends on it.

How long such a plan takes is measured by ``tests/benchmarks/planning.py``.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from support.checkout import CONFIG, copy_checkout, snakemake
from support.plans import edit, make_pretended, planned, with_followers

SHARDS = 2000
MAX_ARG_STRLEN = 131_072  # bytes of one argument on Linux; `bash -c` takes a job's whole command as one


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a dry run of the toy experiment prints: one data set in so many shards, a model for a GPU and no GPU."""
    folder = copy_checkout(tmp_path_factory.mktemp("planned"))
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["datasets"][0]["shards"] = SHARDS
    config["models"][0]["gpus"] = 1
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    options = ("--printshellcmds", "--cores", "2", "--resources", "gpu=0", "--configfile", CONFIG)
    return snakemake(folder, "-n", *options).stdout


def test_every_shard_is_planned_once(plan: str) -> None:
    drawn = re.findall(rf"^Job \d+: Draw shard (\d+) of {SHARDS} of data set short$", plan, flags=re.MULTILINE)
    assert sorted(map(int, drawn)) == list(range(SHARDS))
    assert re.findall(r"^render +(\d+)$", plan, flags=re.MULTILINE)[0] == str(SHARDS + 1)  # and the other data set's


def test_no_command_but_its_own_names_a_shard(plan: str) -> None:
    commands = re.findall(r"^Shell command: (python -m ocsrflow (\w+) .*)$", plan, flags=re.MULTILINE)
    assert {"render", "pack", "browse", "report"} <= {stage for _, stage in commands}
    # With a path for each of ten thousand shards it would be ten times too long.
    assert {stage for command, stage in commands if re.search(rf"\b{SHARDS - 1}\.", command)} == {"render"}
    assert max(len(command.encode()) for command, _ in commands) < MAX_ARG_STRLEN


def test_every_stage_that_asks_for_a_gpu_is_told_how_many_there_are(plan: str) -> None:
    commands = re.findall(r"python -m ocsrflow (\w+) .*--gpus [1-9]\d* --granted (\d+)", plan)
    stages = {"launch", "predict", "rescore", "speed_training", "speed_prediction"}
    assert set(commands) == {(stage, "0") for stage in stages}


def test_osra_in_an_ensemble_reads_and_votes_but_scores_no_text(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    members = ["osra", "shuffle"]
    edit(folder, baselines=["constant", "osra"], ensembles=[{"name": "both", "models": members}])
    text = snakemake(folder, "-n", "--printshellcmds", "--cores", "2", "--configfile", CONFIG).stdout
    commands = re.findall(r"python -m ocsrflow (\w+) (.*)$", text, flags=re.MULTILINE)
    for stage in ("choose", "vote", "rescore"):
        read = [
            re.findall(r"predictions/[\w-]+/(\w+)\.parquet", options)[:2] for name, options in commands if name == stage
        ]
        assert len(read) >= 1
        assert all(found == members for found in read), stage
    for stage in ("rescore", "speed_prediction"):
        weighed = [re.findall(r"models/(\w+)/weights", options) for name, options in commands if name == stage]
        assert len(weighed) >= 1
        assert all(found == ["shuffle"] for found in weighed), stage
    redrawn = [options for name, options in commands if name == "redraw"]
    assert any("predictions/held-out/osra.parquet" in options for options in redrawn)


def test_a_model_that_another_one_starts_from_is_trained_first(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    config = yaml.safe_load((folder / CONFIG).read_text())
    child = {"encoder": "shufflenet_v2_x0_5", "image_size": 96, "pretrained": "./results/models/shuffle"}
    config["models"].append({"name": "child", "dataset": "longer", "gpus": 0, "network": child})
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    options = ("-n", "--cores", "2", "--configfile", CONFIG, "--", "results/models/child/model.json")
    plan = snakemake(folder, *options).stdout
    assert len(re.findall(r"^Job \d+: Train (\w+) on", plan, flags=re.MULTILINE)) == 2
    (reason,) = re.findall(r"^Job \d+: Train child on .*\nReason: (.*)$", plan, flags=re.MULTILINE)
    for file in ("weights.safetensors", "model.json"):
        assert f"results/models/shuffle/{file}" in reason.split("updated by another job: ")[1]


def test_a_parent_that_may_not_be_one_stops_the_plan(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["models"][0]["network"]["pretrained"] = "parent"
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    options = ("-n", "--cores", "2", "--configfile", CONFIG)
    refused = snakemake(folder, *options, check=False)
    assert "models.0.network.pretrained: no trained model in parent (" in refused.stdout
    (folder / "parent").mkdir()
    (folder / "parent/weights.safetensors").touch()
    network = {"encoder": "shufflenet_v2_x0_5", "stride": 16, "dim": 16}
    split = {"validation": 0.1, "test": 0.1, "seed": 7}
    (folder / "parent/model.json").write_text(json.dumps({"network": network, "split": split}))
    refused = snakemake(folder, *options, check=False)
    assert refused.returncode
    assert "models.0.network.pretrained: the model in parent has split.seed 7, here it is 0" in refused.stdout


@pytest.fixture(scope="module")
def pretended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy experiment as if it had run, in a checkout whose code may be edited."""
    return make_pretended(tmp_path_factory.mktemp("pretended"))


READERS = {"predict", "rescore", "attend", "speed_prediction"}
# What no result depends on
IDLE_EDITS = [
    ("runtime/progress.py", "import sys\n", "# for standard error\nimport sys\n"),
    ("runtime/files.py", 'HASHES = "hashes"', 'HASHES = "sha256"'),
    ("runtime/errors.py", "class UserError(Exception):", "class UserError(Exception):\n    x = 1\n"),
    ("tracking/live_curves.py", "import importlib\n", "import importlib\nX = 1\n"),
    ("depiction/plain.py", "import functools\n", "# for caches\nimport functools\n"),
    ("network/decoder.py", "writes SMILES tokens", "writes tokens of SMILES"),
    ("config/depiction.py", '"Draw aromatic rings with alternating double bonds."', '"Kekulé."'),
    ("evaluation/score.py", "    test_set: str,", "    test_set: (\n        str\n    ),"),
    ("corpus/download.py", 'kind == "nci"', '"nci" == kind'),  # addresses and checksums alone decide
]
EDITS = [
    ("network/decoder.py", "-0.1, 0.1", "-0.2, 0.2", {"train", "speed_training", *READERS, "record"}),
    ("training/augment.py", "PAPER = 192", "PAPER = 190", {"train", "speed_training"}),
    (
        "chem/similarity.py", "= Chem.RDKFingerprint(molecule)", "= Chem.RDKFingerprint(molecule, 2)",
        {"train", *READERS, *("redraw", "choose", "vote", "constant", "osra", "calibrate", "score", "report")},
    ),
    ("evaluation/score.py", 'TRUST = (', 'TRUST = ("x", ', {"score"}),
    ("report/costs.py", "COLUMNS = (", 'COLUMNS = ("x", ', {"report"}),
    ("reader/several_molecules.py", "APART = 2.0", "APART = 2.1", {"record"}),
    ("reader/mlflow_pyfunc.py", "import io\n", "import io\nX = 1\n", {"record"}),
    ("tracking/mlflow_store.py", "import os\n", "import os\nX = 1\n", {"tracking", "record"}),
]  # fmt: skip


@contextmanager
def edited(checkout: Path, *edits: tuple[str, str, str]) -> Iterator[None]:
    """With modules whose texts have been changed once each."""
    home = checkout / "workflow/ocsrflow"
    before = {file: (home / file).read_text() for file, _, _ in edits}
    for file, old, new in edits:
        assert old in before[file]
        (home / file).write_text(before[file].replace(old, new, 1))
    yield
    for file, text in before.items():
        (home / file).write_text(text)


def test_edits_that_no_result_depends_on_run_nothing(pretended: Path) -> None:
    with edited(pretended, *IDLE_EDITS):
        assert planned(pretended) == (set(), set())


@pytest.mark.parametrize(("file", "old", "new", "rules"), EDITS)
def test_an_edit_runs_exactly_what_depends_on_it(
    pretended: Path, file: str, old: str, new: str, rules: set[str]
) -> None:
    with edited(pretended, (file, old, new)):
        found = planned(pretended)[1]
    assert found == with_followers(rules)


def test_a_checkout_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    """Its path has what Snakemake, a shell, SQL and addresses read in their own ways, and so has that of a source."""
    folder = copy_checkout(tmp_path / "a{b}%20c d'e#f?é\"g <x>;h$i" / "ocsrflow")
    given = "my {the corpus} <X> %20#?'1'.smi"
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["sources"].append({"name": "given", "kind": "file", "path": given, "max_length": 40})
    config["datasets"].append(config["datasets"][0] | {"name": "third", "source": "given"})
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    (folder / given).write_text("1\tCCO\n2\tCCN\n")
    plan = snakemake(folder, "-n", "--cores", "2", "--configfile", CONFIG).stdout
    assert int(re.findall(r"^total +(\d+)$", plan, flags=re.MULTILINE)[0]) > 60
    wanted = ("results/tracking.json", "results/corpus/given/kept.parquet")
    snakemake(folder, "--cores", "2", "--configfile", CONFIG, "--", *wanted)
    assert pq.read_table(folder / wanted[1])["smiles"].to_pylist() == ["CCO", "CCN"]
    assert (folder / "results/mlflow.db").is_file()
    assert len(list(tmp_path.iterdir())) == 1
