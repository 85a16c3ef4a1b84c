"""What a run of the workflow is a run of: its configuration and the state of the checkout.

Snakemake writes it down when a run begins (``onstart``), in two files below the results that are no rule's outputs:
else a commit would run everything again. MLflow, the report and ``ocsrflow compare`` read them.
"""

import hashlib
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ..runtime.files import sha256, write_json, write_text
from .experiment import Config

EXPERIMENT = "experiment.yaml"
WORKFLOW = "workflow.json"
LONGEST_PATCH = 500_000  # characters of what is not committed that are kept


def begin(config: Config, checkout: Path) -> None:
    """Write ``experiment.yaml`` and ``workflow.json`` below the results.

    Parameters
    ----------
    config
        The whole configuration, with all that was left to defaults. Given as ``--configfile`` its file makes the same
        experiment again.
    checkout
        Folder of the workflow.
    """
    text = as_yaml(config)
    results = Path(config.results)
    write_text(results / EXPERIMENT, text)
    facts = {"config_hash": hash_of(config), "started": datetime.now(UTC).isoformat(timespec="seconds")}
    state = _state(checkout)
    write_json(results / WORKFLOW, {**facts, "version": _version(state), **state})


def as_yaml(config: Config) -> str:
    """The configuration as it is kept."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def hash_of(config: Config) -> str:
    """Twelve hexadecimal digits that change with any setting."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]


def _state(checkout: Path) -> dict[str, Any]:
    """``commit``, ``patch`` (what differs from it, empty where nothing does) and ``repository`` of a checkout.

    ``commit`` is empty outside of git.
    """
    # A checkout's own repository, or one that it is a part of: not one that a copy of its files happens to lie in.
    in_git = bool(_git(checkout, "ls-files", "--", "Snakefile"))
    commit = _git(checkout, "rev-parse", "HEAD").strip() if in_git else ""
    # Results are made by the run itself, and what git does not know may be anything.
    patch = _git(checkout, "diff", "HEAD", "--", ".", ":!results") if commit else ""
    new = _git(checkout, "ls-files", "--others", "--exclude-standard", "--", "workflow", "Snakefile") if commit else ""
    return {
        "commit": commit,
        "patch": patch[:LONGEST_PATCH],
        "patch_cut": len(patch) > LONGEST_PATCH,
        "not_in_git": {name: sha256(checkout / name) for name in new.splitlines() if (checkout / name).is_file()},
        "repository": _public(_git(checkout, "remote", "get-url", "origin").strip()) if in_git else "",
    }


def _version(state: Mapping[str, Any]) -> str:
    """The commit, marked where the checkout differed from it; empty outside of git."""
    commit = state["commit"]
    changes = state["patch"] + "".join(f"{name} {digest}\n" for name, digest in state["not_in_git"].items())
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if commit and changes else commit


def _git(folder: Path, *words: str) -> str:
    """What git prints; nothing where there is no git or no repository."""
    try:
        found = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.decode("utf-8", "replace") if found.returncode == 0 else ""


def _public(address: str) -> str:
    """The address of a repository if others can use it: https, without a name or password in it."""
    parts = urlsplit(address)
    if parts.scheme != "https" or not parts.hostname:
        return ""
    return f"https://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
