"""Temporary folders of killed processes are removed by the next, and no others."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from ocsrflow.runtime.temporary import LOCK, temporary_folder


def test_what_killed_processes_left_is_removed_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("ocsrflow-left", "ocsrflow-used", "ocsrflow-young", "ocsrflow-other", "somebody-else"):
        (tmp_path / name).mkdir()
        if name != "ocsrflow-other":  # a folder of another kind, which has no lock
            (tmp_path / name / LOCK).touch()
        if name != "ocsrflow-young":
            os.utime(tmp_path / name, (0, 0))
    (tmp_path / "ocsrflow-nowhere").symlink_to(tmp_path / "nothing")
    with open(tmp_path / "ocsrflow-used" / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.utime(tmp_path / "ocsrflow-used", (0, 0))
        with temporary_folder("test") as made:
            (made / "file").touch()
            left = {path.name for path in tmp_path.iterdir()} - {made.name}
    assert left == {"ocsrflow-used", "ocsrflow-young", "ocsrflow-other", "ocsrflow-nowhere", "somebody-else"}
    assert not made.exists()
