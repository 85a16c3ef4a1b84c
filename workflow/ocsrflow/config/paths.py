"""Paths in the configuration, which somebody else may have written."""

import re
from typing import Annotated

from pydantic import AfterValidator

LONGEST = 4095  # bytes of a path on Linux
LONGEST_PART = 255  # bytes of a file's or folder's name


def _usable(path: str) -> str:
    """Refuse what no file can be called, and what would be taken for something else than a path."""
    data = path.encode("utf-8", "surrogatepass")
    if not path or re.search(r"[\x00-\x1f\x7f]", path):
        raise ValueError("a path is expected, without control characters such as line ends")
    if path.startswith("-"):
        raise ValueError("a path that begins with '-' would be taken for an option; put ./ before it")
    if found := re.search(r"<[a-z][a-z0-9_]*>|\{\s*[.\w]+\s*(,[^{}]*)?\}", path):
        raise ValueError(f"Snakemake replaces {found[0]} in a path and has no way to say that it is meant; rename it")
    if len(data) > LONGEST or any(len(part) > LONGEST_PART for part in data.split(b"/")):
        raise ValueError(f"too long a path: {LONGEST} bytes in all and {LONGEST_PART} between two '/' are the most")
    return path


def _taken_literally(path: str) -> str:
    """In what a run makes, Snakemake reads { } < > as names to be replaced, and MLflow ? # % as parts of an address."""
    if re.search(r"[{}<>?#%]", path):
        raise ValueError("a path without any of the characters { } < > ? # % is expected")
    return path


GivenPath = Annotated[str, AfterValidator(_usable)]  # of something that is there
MadePath = Annotated[GivenPath, AfterValidator(_taken_literally)]  # of what a run makes
