"""The pins: one lock, and environments that do not drift from it."""

import ast
import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from ocsrflow.__main__ import COMMANDS
from ocsrflow.runtime.code_version import reached
from support.checkout import REPOSITORY

spec = importlib.util.spec_from_file_location("pins", REPOSITORY / "envs/pins.py")
assert spec is not None
assert spec.loader is not None
pins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pins)


@pytest.mark.parametrize("name", ["chem", "train", "report"])
def test_the_conda_environments_have_the_versions_of_the_lock(name: str) -> None:
    assert (REPOSITORY / f"envs/{name}.yaml").read_text() == pins.environment(name), "run: python envs/pins.py"


def test_every_environment_file_is_looked_at() -> None:
    assert {path.stem for path in (REPOSITORY / "envs").glob("*.yaml")} == set(pins.ENVIRONMENTS)


def test_every_rule_finds_what_it_imports_in_its_environment() -> None:
    """With --sdm conda a job has its environment alone."""
    of_module = metadata.packages_distributions()
    rules = "".join(path.read_text() for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")))
    found = re.findall(r"\nrule (\w+):.*?CONDA\[\"(\w+)\"\].*?python -m ocsrflow (\w+)", rules, flags=re.DOTALL)
    assert len(found) > 20
    missing = {}
    for rule, name, command in found:
        there = brought_along(pins.ENVIRONMENTS[name])
        for own in reached(COMMANDS[command][0], everything=True):
            path = REPOSITORY / "workflow/ocsrflow" / own.replace(".", "/")
            for module in imported(path / "__init__.py" if path.is_dir() else path.with_suffix(".py")):
                packages = {normal(package) for package in of_module.get(module, [])}
                if packages and not packages & {*there, "ocsrflow"}:
                    missing[rule, module] = own
    assert missing == {}


def imported(path: Path) -> set[str]:
    """Top-level modules that a file imports as it is loaded: what a function imports is another matter."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).partition(".")[0])
    return found


def brought_along(packages: list[str]) -> set[str]:
    """Packages and what they require without extras."""
    found: set[str] = set()
    left = [normal(package) for package in packages]
    while left:
        package = left.pop()
        if package not in found:
            found.add(package)
            try:
                required = metadata.requires(package) or []
            except metadata.PackageNotFoundError:  # of another system
                continue
            left += [normal(re.split(r"[^\w.-]", text)[0]) for text in required if "extra ==" not in text]
    return found


def normal(package: str) -> str:
    return re.sub("[-_.]+", "-", package).lower()


def test_the_lock_holds_every_requirement_with_hashes_and_no_address() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    blocks = re.split(r"\n(?=[a-z0-9])", lock)
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    named = [re.split(r"[><=~]", requirement)[0] for requirement in required]
    assert "snakemake" in named
    assert {name.replace(".", "-") for name in named} <= set(pins.locked())  # one name to an index, as PEP 503 says
