"""The pins: one lock, and environments that do not drift from it."""

import importlib.util
import re

import pytest
from conftest import REPOSITORY

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


def test_the_lock_holds_every_requirement_with_hashes_and_no_address() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    blocks = re.split(r"\n(?=[a-z0-9])", lock)
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    named = re.findall(r'^    "([a-z0-9-]+)[><=~]?', (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert "snakemake" in named
    assert set(named) <= set(pins.locked())
