"""Nothing that a configuration or a command line of make says is run by a shell."""

import ast
import os
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
import yaml
from support.checkout import CONFIG, REPOSITORY, snakemake
from support.processes import program

PWN = "'$(touch pwned) `touch pwned` \"; touch pwned; & touch pwned | touch pwned > pwned * ~ $HOME \\ "
# What no configuration can make anything else than a number, or one of a few words.
NUMBERS = {
    "threads", "resources.gpu", "wildcards.place", "wildcards.rung", "wildcards.shard",
    *(f"params.{name}" for name in (
        "batch", "epochs", "gallery", "gpus", "kept", "max_length", "minutes", "places", "seed", "shards", "size",
        "split_seed", "steps", "test", "time_limit", "timed_images", "validation",
    )),
}  # fmt: skip


def test_every_rule_quotes_what_it_puts_into_a_command() -> None:
    fields = []
    for path in sorted(REPOSITORY.glob("workflow/rules/*.smk")):
        for block in re.findall(r"^    shell:\n((?: {8}.*\n|\n)+)", path.read_text(), flags=re.MULTILINE):
            text = ast.literal_eval(f"({block})")
            fields += [(path.name, name, form) for _, name, form, _ in string.Formatter().parse(text) if name]
    assert len(fields) > 100
    assert [field for field in fields if field[2] != "q" and field[1] not in NUMBERS] == []


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A configuration with commands in everything that may hold any text."""
    config = yaml.safe_load((REPOSITORY / CONFIG).read_text())
    folder = tmp_path / PWN.replace("/", "")
    folder.mkdir()
    table = folder / "table.csv"
    table.write_text("a,b\n")
    config["results"] = str(folder / "results").replace("?", "").replace(">", "")
    config["weights_folder"] = str(folder / "weights")
    config["network"] |= {"pretrained": "imagenet", "frozen_children": 1}
    config["sources"] += [
        {
            "name": "web",
            "kind": "pubchem",
            "url": f"https://127.0.0.1/{PWN}",
            "md5_url": f"https://127.0.0.1/{PWN}.md5",
        },
        {"name": "local", "kind": "file", "path": str(table)},
        {"name": "drawn", "kind": "pictures", "csv": str(table), "pictures": str(folder), "file_column": PWN},
    ]
    config["sources"][-1]["smiles_column"] = f"{PWN}\n{PWN}"
    config["datasets"] += [{"name": f"of-{name}", "source": name, "shards": 1} for name in ("web", "local", "drawn")]
    config["benchmarks"] = [
        {"name": "foreign", "images": str(folder), "references": str(table), "id_column": f"-{PWN}"}
    ]
    font = folder / "font.ttf"
    font.touch()
    config["drawings"] = [{"name": "letters", "style": {"fonts": {str(font): 1}}}]
    config["tracking"] = {"experiment": f"--out=pwned {PWN}", "uri": f"http://127.0.0.1/{PWN}"}
    config["report"] |= {"title": f"-n {PWN}\n{PWN}", "note": f"--out=pwned {PWN}"}
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


RECORDER = r"""set -euo pipefail
python() { printf '%s\0' "$@" $'\1' >> "$CALLS"; }
"""


def test_a_hostile_configuration_runs_no_command(hostile: Path, tmp_path: Path) -> None:
    """Every command of a run, as Snakemake would start it, by a real shell in which ``python`` only tells its words."""
    output = snakemake(REPOSITORY, "-n", "-p", "--cores", "2", "--configfile", str(hostile)).stdout
    commands = re.findall(r"^Shell command: (?!None)(.*?)(?=\n\n\[|\Z)", output, flags=re.MULTILINE | re.DOTALL)
    rules = {re.findall(r"-m ocsrflow (\w+)", command)[0] for command in commands}
    assert {
        "download",
        "filter",
        "render",
        "benchmark_set",
        "draw_set",
        "launch",
        "weights",
        "report",
        "tracking",
    } <= rules
    config = yaml.safe_load(hostile.read_text())
    work, calls = tmp_path / "work", tmp_path / "calls"
    logs = {Path(config["results"]) / "logs" / path for path in re.findall(r"/logs/([\w/.-]+\.log)", output)}
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir()
    script = tmp_path / "commands"
    script.write_text(RECORDER + "".join(f"(\n{command}\n)\n" for command in commands))
    subprocess.run(["bash", script], cwd=work, check=True, env={**os.environ, "CALLS": str(calls)})
    assert list(work.iterdir()) == []
    assert list(tmp_path.rglob("pwned")) == []
    words = [call.split("\0")[:-1] for call in calls.read_text().split("\1\0")[:-1]]
    assert len(words) == len(commands)
    for call in words:
        assert any(word.startswith(config["results"]) for word in call), call
    every = {word for call in words for word in call}
    web, drawn, benchmark = config["sources"][1], config["sources"][3], config["benchmarks"][0]
    whole = [
        f"--url={web['url']}",
        f"--md5-url={web['md5_url']}",
        drawn["csv"],
        drawn["pictures"],
        f"--smiles-column={drawn['smiles_column']}",
        config["weights_folder"],
    ]
    whole += [f"--id-column={benchmark['id_column']}", f"--uri={config['tracking']['uri']}"]
    whole += [f"--experiment={config['tracking']['experiment']}"]
    whole += [f"--{name}={config['report'][name]}" for name in ("title", "note")]
    assert [word for word in whole if word not in every] == []


GIVEN = "x\"; touch pwned; '$(touch pwned) `touch pwned` $$(touch pwned) $(shell touch pwned) ; touch pwned #"


def test_make_runs_nothing_that_its_variables_say(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    for name in ("python", "mlflow"):  # make takes those of its own environment
        program(tmp_path / ".venv/bin" / name, "printf '%s\\0' \"$@\" >> words")
    names = ("RESULTS", "A", "B", "DATASET", "PORT", "PYTHON")
    (tmp_path / GIVEN).mkdir()
    (tmp_path / GIVEN / "mlflow.db").touch()
    goals = ["status", "compare", "browse", "ui"]
    command = ["make", "-k", "-o", ".venv/.ready", *goals, *(f"{name}={GIVEN}" for name in names)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "DATASET is the name of a data set, not a path" in run.stderr
    words = (tmp_path / "words").read_text().split("\0")
    assert words.count(GIVEN) == 5  # the results twice, A and B, the port
    # From the environment, and with the interpreter that sets everything up.
    for name in ("requirements.lock", "pyproject.toml", "envs/bootstrap.lock"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    run = subprocess.run(
        ["make", "setup"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": GIVEN},
    )
    assert "ocsrflow needs Python 3.11 or newer" in run.stderr
    assert list(tmp_path.rglob("pwned*")) == []
