"""Files that appear whole or not at all, and the record of what was in them.

Below ``hashes`` in the results each finished file has a small one of its name with ``.sha256`` appended, in the form of
coreutils' ``sha256sum``, which checks them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

RESULTS = "OCSRFLOW_RESULTS"  # environment variable: the folder of results that a stage of the workflow works for
HASHES = "hashes"


@contextmanager
def whole(path: Path, *, recorded: bool = True) -> Iterator[Path]:
    """A temporary name beside ``path``, moved to ``path`` when the block ends well and removed when not.

    The name is always the same (``.part`` appended), so that what a killed process left is overwritten.

    Parameters
    ----------
    path
        Where the file is to be.
    recorded
        False for a file that others may change or remove later on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        yield part
        if recorded:
            finish(part, path)
        else:
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def finish(part: Path, path: Path) -> None:
    """Move a file that is whole to where it belongs and write down its SHA-256, in a run of the workflow.

    Who is killed in between has not ended his stage, which then runs again.
    """
    record = record_of(path)
    digest = sha256(part) if record else None
    os.replace(part, path)
    if record and digest:
        record.parent.mkdir(parents=True, exist_ok=True)
        name = record.with_suffix("").relative_to(_results() / HASHES).as_posix()
        record.write_text(f"{digest}  {name}\n", encoding="utf-8")  # one short write: it needs no name of its own


def forget(folder: Path) -> None:
    """Remove what is written down of the files in a folder."""
    if record := record_of(folder):
        shutil.rmtree(record.with_suffix(""), ignore_errors=True)


def record_of(path: Path) -> Path | None:
    """Where the SHA-256 of a file is written down; None outside the results of a run."""
    if not os.environ.get(RESULTS):
        return None
    inside = Path(os.path.relpath(path, _results()))
    return None if ".." in inside.parts else _results() / HASHES / f"{inside.as_posix()}.sha256"


def _results() -> Path:
    return Path(os.environ[RESULTS])


def write_text(path: Path, text: str, *, recorded: bool = True) -> None:
    """Write ``text`` as UTF-8, whole or not at all; ``recorded`` as for :func:`whole`."""
    with whole(path, recorded=recorded) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, recorded: bool = True) -> None:
    """Write ``value`` as JSON, whole or not at all; ``recorded`` as for :func:`whole`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", recorded=recorded)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises
    ------
    UserError
        Where it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError too; nested too deeply
        raise UserError(f"{path}: damaged, no JSON ({error}); remove it and run what made it again") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
