"""The command ``ocsrflow``: what it lists, how fast, and that the rules and the help of each command agree with it."""

import re
import subprocess
import sys
from importlib import import_module

import psutil
import pytest
from ocsrflow.__main__ import COMMANDS, main
from ocsrflow.runtime.cli import command_line
from support.checkout import REPOSITORY

FOR_PEOPLE = ("read", "evaluate", "compare", "ui", "status", "browse", "config")
HEAVY = ("torch", "rdkit", "pandas", "numpy", "pydantic", "cyclopts", "mlflow")


def test_the_overview_is_there_at_once() -> None:
    script = f"""
import sys
from ocsrflow.__main__ import main
try:
    main(["--help"])
finally:
    assert not [name for name in {HEAVY} if name in sys.modules]
"""
    before = psutil.Process().cpu_times()
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    after = psutil.Process().cpu_times()
    assert run.returncode == 0, run.stderr
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5
    listed = re.findall(r"^  (\w+) ", run.stdout, re.MULTILINE)
    assert listed == list(COMMANDS)


def test_every_rule_calls_a_command_of_its_own_name() -> None:
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
    call = r'^rule (\w+):.*?python -m ocsrflow ((?:launch .*?-- "\s*")?)(\w+)'
    found = re.findall(call, rules, re.DOTALL | re.MULTILINE)
    assert len(found) == len(re.findall(r"^rule ", rules, re.MULTILINE)) > 20
    assert [(rule, command) for rule, _, command in found if rule != command] == []
    assert {command for *_, command in found} <= set(COMMANDS)
    assert re.findall(r"python -m (?!ocsrflow \w)\S+ \S+", rules) == []


def test_no_module_is_called_by_its_path() -> None:
    """A stage has one name, that of its command."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    texts = [REPOSITORY / name for name in listed.splitlines() if name.endswith((".py", ".md", ".smk", "Makefile"))]
    assert len(texts) > 200
    assert [path for path in texts if path.is_file() and re.search(r"-m ocsrflow\.", path.read_text())] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, function, _ = COMMANDS[name]
    called = getattr(import_module(f"ocsrflow.{module}"), function)
    command_line(called, f"ocsrflow {name}")(["--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: ocsrflow {name} ")
    assert (f"Example: ocsrflow {name} " in text) or name not in FOR_PEOPLE


def test_a_name_that_is_none_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for word, meant in {"rendr": "did you mean render?", "--version": "ocsrflow --help lists them"}.items():
        with pytest.raises(SystemExit, match="2"):
            main([word])
        assert capsys.readouterr().err == f"ocsrflow: error: no command {word!r}; {meant}\n"


def test_messages_begin_with_the_command() -> None:
    command = [sys.executable, "-m", "ocsrflow", "status", "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "ocsrflow status: error: nowhere: no run has started yet, there is no workflow.json\n"
