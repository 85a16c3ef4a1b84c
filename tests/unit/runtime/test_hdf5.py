"""HDF5 files that keep the library busy for ever, crash it or ask for absurd sizes are refused within seconds."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from ocsrflow.chem.tokenizer import VOCABULARY, encode
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.filtered_molecules import FilteredMolecules
from ocsrflow.corpus.picture_folder import PictureFolder
from ocsrflow.pictures.pack import PictureIndex
from ocsrflow.pictures.packed_file import SPLITS, TEXTS, Packed, describe
from ocsrflow.pictures.packed_writer import PackedWriter
from ocsrflow.pictures.picture_chunks import Compressor, create, write_chunk
from ocsrflow.pictures.picture_files import load
from ocsrflow.pictures.picture_store import PictureStore
from ocsrflow.report.browse import browse
from ocsrflow.runtime import hdf5
from ocsrflow.runtime.errors import UserError, of_the_system, system_error

SMALL = Depiction(size=32, palette="black_and_white")
CHUNK = Compressor().chunk(np.zeros((32, 32, 1), np.uint8))


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed data set of 600 pictures, whose texts fill collections of the global heap by themselves."""
    path = tmp_path / "small" / "images.h5"
    path.parent.mkdir()
    smiles = "C" * 60
    with h5py.File(path, "w", libver="v110") as file:
        attributes = {"vocabulary": json.dumps(VOCABULARY), "sample": json.dumps({"x": "y" * 2000})}
        writer = PackedWriter(file, SMALL, attributes)
        for cid in range(600):
            writer.add(cid, SPLITS[cid % 3], CHUNK, encode(smiles), dict.fromkeys(TEXTS, smiles))
        writer.close()
    return path


def loop(path: Path, collection: int) -> None:
    """Make the second piece of a collection of the global heap one that is free and has no size."""
    data = path.read_bytes()
    at = -1
    for _ in range(collection + 1):
        at = data.index(b"GCOL", at + 1)
    first = at + 16
    second = first + 16 + -(-int.from_bytes(data[first + 8 : first + 16], "little") // 8) * 8
    path.write_bytes(data[:second] + bytes(16) + data[second + 16 :])


def refused(read: Callable[[], object], *words: str, seconds: float = 60) -> None:
    """One line that names a reason, soon: a second of processor time is allowed, and this machine may be busy."""
    began = time.monotonic()
    with pytest.raises((UserError, hdf5.Damaged)) as caught:
        read()
    assert time.monotonic() - began < seconds
    assert len(str(caught.value).splitlines()) == 1
    assert all(word in str(caught.value) for word in words)


def test_attributes_that_hdf5_loops_over_are_refused(packed: Path) -> None:
    loop(packed, 0)
    for read in (lambda: Packed(packed), lambda: describe(packed)):
        refused(read, str(packed), "does not come to an end")


def test_texts_that_hdf5_loops_over_are_refused(packed: Path, tmp_path: Path) -> None:
    loop(packed, packed.read_bytes().count(b"GCOL") // 2)
    found = Packed(packed)
    refused(lambda: found.text("canonical", range(len(found))), str(packed), "does not come to an end")
    refused(lambda: browse(packed, out=tmp_path / "page.html"), str(packed), "does not come to an end")
    assert not (tmp_path / "page.html").exists()


def test_a_file_of_the_store_that_hdf5_loops_over_is_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "style" / "00000-of-00001-0.h5"
    path.parent.mkdir()
    with h5py.File(path, "w", libver="v110") as file:
        file["molecule"] = ["C", "CC"]
    loop(path, 0)
    assert PictureStore(tmp_path, "style", 0, 1).find(np.array([1], np.uint64)) == {}
    assert "does not come to an end" in capsys.readouterr().err


def outside(file: h5py.File, name: str) -> None:
    (Path(file.filename).parent / "other").write_bytes(bytes(600 * 8))
    del file[name]


def external(file: h5py.File) -> None:
    outside(file, "cid")
    file.create_dataset("cid", (600,), "i8", external=[("other", 0, h5py.h5f.UNLIMITED)])


def linked(file: h5py.File) -> None:
    outside(file, "cid")
    file["cid"] = h5py.ExternalLink("other", "cid")


def virtual(file: h5py.File) -> None:
    outside(file, "cid")
    layout = h5py.VirtualLayout((600,), "i8")
    layout[:] = h5py.VirtualSource("other", "cid", (600,))
    file.create_virtual_dataset("cid", layout)


def endless(file: h5py.File) -> None:
    for name in ("cid", "split", "smiles", "canonical", "images"):
        file[name].resize(1 << 40, axis=0)
    file["offsets"].resize((1 << 40) + 1, axis=0)


def huge_chunks(file: h5py.File) -> None:
    del file["cid"]
    column = file.create_dataset("cid", (600,), "i8", chunks=(1 << 28,), maxshape=(None,), compression="gzip")
    column.id.write_direct_chunk((0,), zlib.compress(bytes(1000)))


def other_chunks(file: h5py.File) -> None:
    del file["images"]
    file.create_dataset("images", (600, 1, 32, 32), "u1", chunks=(600, 1, 32, 32))[0] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external, "cid is no column of this file"),
        (linked, "cid is no column of this file"),
        (virtual, "cid is no column of this file"),
        (endless, "larger than the file"),
        (huge_chunks, "cid has chunks of more than 64 MB"),
        (other_chunks, "not a chunk for each picture"),
    ],
)
def test_columns_elsewhere_and_absurd_sizes_are_refused(
    packed: Path, change: Callable[[h5py.File], None], words: str
) -> None:
    with h5py.File(packed, "r+") as file:
        change(file)
    refused(lambda: Packed(packed), str(packed), words)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        refused(lambda path=path: Packed(path), str(path), "not a file", seconds=5)


def test_a_crash_is_damage_and_a_killed_process_is_not(packed: Path) -> None:
    def crash(_: h5py.File) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def kill(_: h5py.File) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(hdf5.Damaged, match="crashes"):
        hdf5.values(packed, crash)
    with pytest.raises(UserError, match="run the same command again"):
        hdf5.values(packed, kill)


def test_no_process_is_left_by_who_reads_no_further(packed: Path) -> None:
    def for_ever(file: h5py.File) -> Iterator[int]:
        while True:
            yield len(file)

    others = set(psutil.Process().children())
    parts = hdf5.parts(packed, for_ever)
    next(parts)
    assert set(psutil.Process().children()) > others
    parts.close()
    assert set(psutil.Process().children()) <= others


def test_a_text_is_found_wherever_it_is(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(packed, "r+") as file:
        file["smiles"][:] = [f"text {at}" for at in range(600)]
    found = Packed(packed)
    for rows in (7, 600, 1000):
        monkeypatch.setattr("ocsrflow.pictures.packed_file.ROWS", rows)
        positions = [599, 0, 13, 13, 14, 6, 7]
        assert found.text("smiles", positions) == [f"text {at}" for at in positions]
        assert found.text("smiles", []) == []


def test_the_store_of_pictures_reads_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "style" / "00000-of-00001-0.h5"
    path.parent.mkdir()
    with h5py.File(path, "w", libver="v110") as file:
        write_chunk(create(file, 1, SMALL), 0, CHUNK)
        file["molecule"] = np.array([7], np.uint64)
    assert PictureStore(tmp_path, "style", 0, 1).find(np.array([7], np.uint64)) == {7: (f"style/{path.name}", 0)}


# What the system refuses is not said to be damage.

NO_FLOCK = r"""
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) {
    const char *number = getenv("FLOCK_ERRNO");
    errno = number ? atoi(number) : 0;
    return number ? -1 : 0;
}
"""
UNLOCKED = """
import errno, json, os, sys
from pathlib import Path
import h5py, numpy as np
from ocsrflow.training.checkpoints import Checkpoints
from ocsrflow.runtime.cli import explain
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.gpu_lease import Lease
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.corpus.filtered_molecules import FilteredMolecules
from ocsrflow.corpus.picture_folder import PictureFolder
from ocsrflow.pictures.picture_store import PictureStore
packed, store, folder = map(Path, sys.argv[1:4])
def locked():
    with Checkpoints(folder, "key", {}).lock():
        pass
def opened():
    with h5py.File(folder / "new.h5", "w"):
        pass
tries = {
    "read": lambda: Packed(packed),
    "store": lambda: PictureStore(store, "style", 0, 1).find(np.array([7], np.uint64)),
    "write": opened,
    "train": locked,
    "lease": lambda: Lease(["0"], 1, folder / "locks"),
}
found = {}
for name in sys.argv[4:]:
    os.environ["FLOCK_ERRNO"] = str(getattr(errno, name))
    for what, attempt in tries.items():
        try:
            attempt()
            found[f"{what} {name}"] = "done"
        except UserError as error:
            found[f"{what} {name}"] = str(error)
        except OSError as error:
            found[f"{what} {name}"] = f"explained: {explain(error)}"
print(json.dumps(found))
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, for a file system without locks that is made up")
def test_a_file_system_without_locks_is_named_and_no_file_is_called_damaged(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "no_flock.c").write_text(NO_FLOCK)
    library = tmp_path / "no_flock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "no_flock.c"], check=True)
    shard = tmp_path / "store" / "style" / "00000-of-00001-0.h5"
    shard.parent.mkdir(parents=True)
    (tmp_path / "run").mkdir()
    with h5py.File(shard, "w", libver="v110") as file:
        file["molecule"] = np.array([7], np.uint64)
    names = ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EACCES", "ESTALE", "EIO"]
    run = subprocess.run(
        [sys.executable, "-c", UNLOCKED, packed, tmp_path / "store", tmp_path / "run", *names],
        env={**os.environ, "LD_PRELOAD": str(library)}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found) == 5 * len(names)
    for name in names:
        reason = os.strerror(getattr(errno, name))
        for what in ("read", "store", "write"):
            message = found[f"{what} {name}"]
            # HDF5 itself goes on where there are no locks at all.
            assert (
                message == "done"
                if name == "ENOSYS"
                else reason in message and "HDF5_USE_FILE_LOCKING=FALSE" in message
            )
            # Of the others the disk or the network may be the cause.
            assert ("does not lock files" in message) == (name in ("ENOLCK", "EOPNOTSUPP"))
        assert found[f"train {name}"] == "done"
        assert reason in run.stderr
        assert reason in found[f"lease {name}"]
        assert "TMPDIR" in found[f"lease {name}"]
    assert "damaged" not in run.stdout + run.stderr
    assert "not a whole" not in run.stdout


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.EIO, "x"), errno.EIO),
        (OSError("Can't read data (file read failed: errno = 5, error message = 'Input/output error')"), errno.EIO),
        (KeyError("Unable to open object (file read failed: errno = 116, error message = 'Stale file handle')"), 116),
        (OSError("Unable to open file (truncated file: eof = 96, sblock->base_addr = 0, stored_eof = 6562)"), None),
        (OSError("file read failed: errno = 22, error message = 'Invalid argument'"), None),  # a wrong offset
        (OSError("[errno 5] Input/output error"), errno.EIO),  # Arrow
        (ValueError("its checksum does not fit"), None),
    ],
)
def test_errors_of_the_system_are_told_from_those_of_what_is_in_a_file(error: Exception, number: int | None) -> None:
    assert system_error(error) == number
    message = of_the_system(error, "a.h5")
    assert (message is None) == (number is None)
    if number is not None:
        assert os.strerror(number) in str(message)
        assert "damaged" not in str(message)


def test_no_reader_calls_a_file_damaged_that_the_system_cannot_read(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Packed(packed)
    found.pictures([0])
    failed = "Can't synchronously read data (file read failed: errno = 5, error message = 'Input/output error')"

    def fail(*_: object, **__: object) -> None:  # a disk that fails cannot be had
        raise OSError(failed)

    monkeypatch.setattr("ocsrflow.pictures.packed_file.read_chunk", fail)
    monkeypatch.setattr("ocsrflow.pictures.pack.pq.read_table", fail)
    monkeypatch.setattr("ocsrflow.corpus.filtered_molecules.pq.ParquetFile", fail)
    monkeypatch.setattr("ocsrflow.corpus.picture_folder.Image.open", fail)
    monkeypatch.setattr("ocsrflow.pictures.picture_files.Image.open", fail)
    (tmp_path / "a.png").write_bytes(b"png")
    for read in (
        lambda: found.pictures([1]),
        lambda: PictureIndex(tmp_path, [tmp_path / "0.parquet"]),
        lambda: FilteredMolecules(tmp_path / "filtered.parquet"),
        lambda: PictureFolder(tmp_path).read("a.png"),
        lambda: load(tmp_path / "a.png", SMALL),
    ):
        with pytest.raises((UserError, ValueError), match="Input/output error") as caught:
            read()
        assert "damaged" not in str(caught.value)
        assert "not a whole" not in str(caught.value)
