"""The code version: an edit that can change a result changes it, any other edit does not."""

import shutil
from pathlib import Path

import pytest
from ocsrflow.runtime.code_version import code_version, reached, syntax

FILES = {
    "__init__.py": "",
    "chem/__init__.py": '"""What molecules are."""\n',
    "chem/scores.py": "LIMIT = 3\n",
    "chem/tokens.py": "WORDS = ['C', 'N']\n",
    "runtime/__init__.py": "",
    "runtime/errors.py": "class UserError(Exception): ...\n",
    "runtime/progress.py": "WIDTH = 40\n",
    "tracking/__init__.py": "",
    "tracking/store.py": "PORT = 5000\n",
    "tracking/record.py": "from ..chem.tokens import WORDS\nfrom . import store\n",
    "training/__init__.py": "",
    "training/engine.py": "from toypackage.chem.scores import LIMIT\n",
    "training/train.py": '''"""Stage ``train``."""

from pydantic import Field

from ..runtime.errors import UserError
from ..runtime.progress import WIDTH
from ..tracking import record
from .engine import LIMIT


class Training:
    """How to train."""

    rate: float = Field(0.1, gt=0, description="Learning rate.")


def train(x: int) -> int:
    """Train.

    x is a number.
    """
    from ..chem import tokens

    if x > LIMIT:
        raise UserError(f"{x} is too large")
    return x * 2 + len(tokens.WORDS)  # formula
''',
}
TRAIN = "training/train.py"
SAME = [
    (TRAIN, "  # formula", "  # the formula of the slides"),
    (TRAIN, "x is a number.", "x is any number."),
    (TRAIN, '    """How to train."""\n\n', ""),
    (TRAIN, "x * 2 + len(tokens.WORDS)", "(\n        x * 2\n        + len(tokens.WORDS)\n    )"),
    (TRAIN, '"Learning rate."', '"Step of the optimiser."'),
    (TRAIN, 'f"{x} is too large"', 'f"{x} is too large: give {LIMIT} or less"'),
    ("chem/__init__.py", "What molecules are.", "Molecules."),
    ("runtime/progress.py", "40", "50"),
    ("tracking/record.py", "WORDS", "WORDS as TEXTS"),
]
OTHER = [
    (TRAIN, "x * 2", "x * 3"),
    (TRAIN, "0.1", "0.2"),
    (TRAIN, "x > LIMIT", "x >= LIMIT"),
    (TRAIN, "from .engine import LIMIT", "from .engine import LIMIT\nfrom .engine import LIMIT as MOST"),
    ("chem/scores.py", "3", "4"),  # imported by its full name, by a module in between
    ("chem/tokens.py", "'N'", "'O'"),  # imported in a function
    ("chem/__init__.py", '"""\n', '"""\nX = 1\n'),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    home = tmp_path / "before/toypackage"
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def versions(package: Path, file: str, old: str, new: str, module: str) -> tuple[str, str]:
    """Of a module before and after an edit."""
    edited = package.parents[1] / "after" / package.name
    shutil.copytree(package, edited)
    text = (edited / file).read_text()
    assert text.count(old) == 1
    (edited / file).write_text(text.replace(old, new))
    return code_version(module, home=package), code_version(module, home=edited)


@pytest.mark.parametrize(("file", "old", "new"), SAME)
def test_an_edit_that_changes_no_result_leaves_the_version(package: Path, file: str, old: str, new: str) -> None:
    before, after = versions(package, file, old, new, "training.train")
    assert before == after


@pytest.mark.parametrize(("file", "old", "new"), OTHER)
def test_an_edit_that_may_change_a_result_changes_the_version(package: Path, file: str, old: str, new: str) -> None:
    before, after = versions(package, file, old, new, "training.train")
    assert before != after


def test_a_stage_that_records_has_the_code_that_records(package: Path) -> None:
    before, after = versions(package, "tracking/store.py", "5000", "5001", "tracking.record")
    assert before != after
    assert "runtime.errors" not in reached("tracking.record", home=package)


def test_several_modules_have_one_version_in_any_order(package: Path) -> None:
    both = code_version("training.train", "tracking.record", home=package)
    assert both == code_version("tracking.record", "training.train", home=package)
    assert both != code_version("training.train", home=package)


def test_a_module_that_is_not_there_is_an_error(package: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"no module training\.trian"):
        code_version("training.trian", home=package)


def test_empty_fields_of_a_newer_python_do_not_count() -> None:
    assert syntax("def f(): return None") == (
        "Module(body=[FunctionDef(name='f',args=arguments(),body=[Return(value=Constant())])])"
    )


def test_a_training_depends_on_no_depiction_of_other_styles_and_on_no_report() -> None:
    found = reached("training.train")
    assert {"chem.similarity", "network.beam_search", "training.validation"} <= found
    assert not {name for name in found if name.startswith(("runtime", "tracking", "report", "reader", "corpus"))}
    assert "depiction.styled" not in found
