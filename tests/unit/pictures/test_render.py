"""A process that hangs or dies costs one item; the picture store finds what was drawn; spares take free places."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.hash_sample import hash64
from ocsrflow.corpus.sample import sample
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.picture_store import SEED, STALE, PictureStore, shard_of, style
from ocsrflow.pictures.render import render
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.isolated import guarded
from support.data import make_dataset
from support.items import behave, prepare


def test_the_process_ends_when_nobody_wants_its_results() -> None:
    others = set(multiprocessing.active_children())
    results = guarded(behave, [*range(32), "hang"], seconds=600.0, prepare=prepare, arguments=("x",))
    assert next(results) == "x 0"
    assert len(set(multiprocessing.active_children()) - others) == 1
    results.close()  # although one item still hangs
    assert set(multiprocessing.active_children()) <= others


def molecules(kept: Path, folder: Path, **options: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {name: folder / f"{name}.csv" for name in ("lengths", "rejects")}
    settings = {"max_length": 16, "validation": 0.1, "test": 0.1, **outputs, **options}
    sample(kept, out=folder / "sample.parquet", **settings)  # type: ignore[arg-type]
    return folder / "sample.parquet"


def drawn(source: Path, store: Path, shards: int, depiction: Depiction) -> tuple[int, dict[int, bytes]]:
    """Render all shards: how many pictures were new, and the chunks of all by CID."""
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.h5")}
    found = {}
    for shard in range(shards):
        out = source.parent / f"{shard}.parquet"
        rejects = source.parent / f"render-{shard}.csv"
        render(source, store=store, out=out, rejects=rejects, shard=shard, shards=shards, depiction=depiction)
        for cid, _, name, number in pd.read_parquet(out).itertuples(index=False):
            with h5py.File(store / name) as file:
                assert file["cid"][number] == cid
                found[cid] = file["images"].id.read_direct_chunk((number, 0, 0, 0))[1]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())  # nothing there was touched
    new = [path for path in store.rglob("*.h5") if path not in before]
    return sum(len(h5py.File(path)["cid"]) for path in new), found


@pytest.mark.usefixtures("drawn_here")
def test_a_picture_of_the_corpus_is_drawn_once(kept: Path, tmp_path: Path) -> None:
    small, store = Depiction(size=64), tmp_path / "pictures"
    one = molecules(kept, tmp_path / "one", size=60, seed=1)
    count, first = drawn(one, store, 3, small)
    assert count == len(first) == 61  # with a spare
    assert drawn(one, store, 3, small) == (0, first)
    # Another data set of the same corpus, divided in another way: only what is missing is drawn.
    two = molecules(kept, tmp_path / "two", size=400, seed=2)
    count, second = drawn(two, store, 2, small)
    shared = set(first) & set(second)
    assert len(shared) > 10
    assert count == len(second) - len(shared)
    assert all(second[cid] == first[cid] for cid in shared)
    # New splits alone draw nothing; another style draws everything.
    three = molecules(kept, tmp_path / "three", size=60, seed=1, test=0.3, split_seed=5)
    assert drawn(three, store, 3, small) == (0, first)
    assert drawn(one, store, 3, Depiction(size=64, line_width=3))[0] == 61


def test_the_pictures_are_the_same_whatever_the_number_of_processes(kept: Path, tmp_path: Path) -> None:
    source = molecules(kept, tmp_path, size=100)  # four chunks of work
    named, indices = [], []
    for processes in (1, 3):
        store, out = tmp_path / f"by-{processes}", tmp_path / f"{processes}.parquet"
        small = Depiction(size=32)
        render(source, store=store, out=out, rejects=tmp_path / "r.csv", depiction=small, processes=processes)
        named += [path.name for path in store.rglob("*.h5")]  # a hash of the pictures in their order
        indices.append(pd.read_parquet(out))
    assert len(named) == 2
    assert named[0] == named[1]
    pd.testing.assert_frame_equal(*indices)


@pytest.mark.usefixtures("drawn_here")
def test_a_damaged_file_of_the_store_is_drawn_again(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "pictures"
    one = molecules(kept, tmp_path / "one", size=40)
    _, first = drawn(one, store, 1, Depiction(size=64))
    (path,) = store.rglob("*.h5")
    path.write_bytes(b"no HDF5")
    render(one, store=store, out=tmp_path / "0.parquet", rejects=tmp_path / "r.csv", depiction=Depiction(size=64))
    assert "its pictures are drawn again" in capsys.readouterr().err
    assert drawn(one, store, 1, Depiction(size=64)) == (0, first)


@pytest.mark.usefixtures("drawn_here")
def test_another_molecule_under_the_same_number_is_drawn(kept: Path, tmp_path: Path) -> None:
    store = tmp_path / "pictures"
    one = molecules(kept, tmp_path / "one", size=40)
    _, first = drawn(one, store, 1, Depiction(size=64))
    table = pq.read_table(one)
    rows = table.to_pylist()
    rows[3]["smiles"] = "CC(C)CBr"
    pq.write_table(table.from_pylist(rows, table.schema), one)
    count, second = drawn(one, store, 1, Depiction(size=64))
    assert count == 1
    assert {cid for cid in first if first[cid] != second[cid]} == {rows[3]["cid"]}


def test_two_jobs_that_draw_the_same_do_not_meet(kept: Path, tmp_path: Path) -> None:
    one = molecules(kept, tmp_path / "one", size=40)
    command = [sys.executable, "-m", "ocsrflow", "render", str(one), "--store", str(tmp_path / "store")]
    jobs = [
        subprocess.Popen([*command, "--out", str(tmp_path / f"{n}.parquet"), "--rejects", str(tmp_path / f"{n}.csv")])
        for n in range(3)
    ]
    assert [job.wait() for job in jobs] == [0, 0, 0]
    assert [path.suffix for path in (tmp_path / "store").rglob("*") if path.is_file()] == [".h5"]


@pytest.mark.usefixtures("drawn_here")
@pytest.mark.parametrize("spoil", ["chunk", "order", "gone"])
def test_pack_takes_nothing_damaged_changed_or_gone_from_the_store(kept: Path, tmp_path: Path, spoil: str) -> None:
    folder = make_dataset(kept, tmp_path / "data")
    (path,) = (folder / "pictures").rglob("*.h5")
    with h5py.File(path, "r+") as file:
        if spoil == "gone":
            path.unlink()
        elif spoil == "order":
            file["cid"][:] = file["cid"][:][::-1]
        else:
            chunk = bytearray(file["images"].id.read_direct_chunk((0, 0, 0, 0))[1])
            chunk[20] ^= 1
            file["images"].id.write_direct_chunk((0, 0, 0, 0), bytes(chunk))
    names = {name: tmp_path / f"{name}.json" for name in ("tokens", "vocabulary", "rejects")}
    paths = {"store": folder / "pictures", "out": tmp_path / "x.h5", **names}
    with pytest.raises(UserError, match="a shard of pictures is damaged or gone"):
        pack(folder / "sample.parquet", folder / "shards", shards=1, **paths)
    assert not list(tmp_path.glob("x.h5*"))


def test_styles_differ_in_every_option() -> None:
    changed = [{"size": 200}, {"palette": "black_and_white"}, {"channel_order": "bgr"}, {"rotation": 5}, {"seed": 1}]
    names = {style(Depiction(**options)) for options in [{}, *changed]}  # type: ignore[arg-type]
    assert len(names) == len(changed) + 1
    assert style(Depiction()).startswith("300-colour-")


def test_shards_are_equal_parts_of_the_hashes() -> None:
    cids = np.arange(10_000)
    for shards in (1, 7, 1000):
        expected = [int(value) * shards >> 64 for value in hash64(cids, SEED).tolist()]
        assert np.abs(shard_of(cids, shards) - expected).max() == 0
    assert np.bincount(shard_of(cids, 7)).min() > 1200


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_small_draw_is_spread_over_all_shards(seed: int) -> None:
    cids = np.arange(100_000)
    drawn = cids[np.argsort(hash64(cids, seed))[:7000]]
    assert np.bincount(shard_of(drawn, 7), minlength=7).min() > 800


@pytest.mark.usefixtures("drawn_here")
@pytest.mark.parametrize("options", [{"size": 60}, {"per_length": 6}])
def test_a_spare_takes_the_place_of_what_cannot_be_drawn(kept: Path, tmp_path: Path, options: dict[str, int]) -> None:
    source = molecules(kept, tmp_path, **options)
    table = pq.read_table(source)
    rows = table.to_pylist()
    spare = next(row for row in rows if row["spare"])
    lost = next(row for row in rows if row["length"] == spare["length"])
    rows[rows.index(lost)]["smiles"] = "C(C"  # RDKit will not draw it
    pq.write_table(table.from_pylist(rows, table.schema), source)
    wanted = sum(not row["spare"] for row in rows)
    for shard in range(2):
        out, rejects = tmp_path / f"{shard}.parquet", tmp_path / f"render-{shard}.csv"
        render(source, store=tmp_path, out=out, rejects=rejects, shard=shard, shards=2, depiction=Depiction(size=64))
    names = {name: tmp_path / f"{name}.json" for name in ("tokens", "vocabulary", "rejects")}
    images = tmp_path / "images.h5"
    pack(source, tmp_path, store=tmp_path, shards=2, out=images, render_rejects=tmp_path, **names)
    packed = Packed(images)
    assert len(packed) == wanted
    assert lost["cid"] not in packed.cid
    assert spare["cid"] in packed.cid
    assert pd.read_csv(tmp_path / "rejects.json")["reason"].tolist() == ["not_drawn"]


def test_the_drawing_of_a_molecule_has_a_time_limit(kept: Path, tmp_path: Path) -> None:
    source = molecules(kept, tmp_path, size=40)
    pq.write_table(pq.read_table(source).slice(0, 3), source)
    render(
        source,
        store=tmp_path,
        out=tmp_path / "0.parquet",
        rejects=tmp_path / "r.csv",
        depiction=Depiction(size=2048),
        time_limit=0.001,
    )
    rejects = pd.read_csv(tmp_path / "r.csv")
    assert len(rejects) == 3
    assert set(rejects["reason"]) == {"too_slow"}
    assert len(pd.read_parquet(tmp_path / "0.parquet")) == 0


def test_what_a_killed_job_left_is_removed_and_what_somebody_writes_is_not(tmp_path: Path) -> None:
    store, old = PictureStore(tmp_path, "style", 0, 1), time.time() - 2 * STALE
    with store.new_file() as first, h5py.File(first.part, "w"):
        os.utime(first.part, (old, old))
        left = first.part.with_name("00000-of-00001-killed.part")
        left.touch()
        os.utime(left, (old, old))
        with store.new_file() as second:
            assert first.part.exists()
            assert not left.exists()
            second.digest = None
