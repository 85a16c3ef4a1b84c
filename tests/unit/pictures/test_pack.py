"""The stages render and pack: pixels, layout, order, rejects, and damage that is found."""

import hashlib
import json
import multiprocessing
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import hdf5plugin  # noqa: F401  (registers the zstd filter, as any reader of the files would)
import numpy as np
import pandas as pd
import pytest
import torch
from ocsrflow.chem.tokenizer import VOCABULARY, decode
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.network.batches import Loader, Part
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import SPLITS, Packed
from ocsrflow.pictures.picture_chunks import create, fletcher32, frame_of, read_chunk
from ocsrflow.pictures.picture_files import load, load_supplied
from ocsrflow.pictures.redraw_distance import distance
from ocsrflow.pictures.render import render
from ocsrflow.runtime.errors import UserError
from PIL import Image, ImageOps
from rdkit import Chem
from support.data import make_dataset
from support.drawings import sheet
from test_picture_files import light_on_transparent, stored

pytestmark = pytest.mark.usefixtures("drawn_here")


def molecules_of(dataset: Path) -> pd.DataFrame:
    """The sample without its spares."""
    rows = pd.read_parquet(dataset / "sample.parquet")
    return rows[~rows["spare"]]


def test_a_packed_data_set_holds_every_molecule_of_its_sample_in_order(dataset: Path) -> None:
    rows = molecules_of(dataset)
    depiction = Depiction(size=64, palette="black_and_white")
    with h5py.File(dataset / "images.h5") as file:
        # Without our code: h5py and hdf5plugin read it.
        pictures = file["images"][:]
        assert file["cid"][:].tolist() == rows["cid"].tolist()
        assert file["smiles"].asstr()[:].tolist() == rows["smiles"].tolist()
        assert [SPLITS[i] for i in file["split"][:]] == rows["split"].tolist()
    packed = Packed(dataset / "images.h5")
    for at, smiles in enumerate(rows["smiles"]):
        drawn = draw(Chem.MolFromSmiles(smiles), depiction)
        np.testing.assert_array_equal(pictures[at].transpose(1, 2, 0), drawn)
        np.testing.assert_array_equal(packed.picture(at), drawn)
        assert decode(packed.tokens_of(at)) == smiles
    assert sorted(np.concatenate([packed.members(split) for split in SPLITS])) == list(range(len(rows)))


def test_tokens_and_vocabulary_are_json(dataset: Path) -> None:
    rows = molecules_of(dataset)
    vocabulary = json.loads((dataset / "vocabulary.json").read_text())
    assert list(vocabulary["tokens"]) == VOCABULARY
    entries = json.loads((dataset / "tokens.json").read_text())
    back = {number: token for token, number in vocabulary["tokens"].items()}
    assert ["".join(back[n] for n in entry["tokens"]) for entry in entries] == rows["smiles"].tolist()
    assert [(e["cid"], e["split"]) for e in entries] == list(zip(rows["cid"], rows["split"], strict=True))


def test_files_are_the_same_bytes_however_they_are_divided(kept: Path, dataset: Path, tmp_path: Path) -> None:
    again = make_dataset(kept, tmp_path / "two", shards=2)
    other = make_dataset(kept, tmp_path / "three", shards=3)
    digests = [hashlib.sha256((f / "images.h5").read_bytes()).hexdigest() for f in (dataset, again, other)]
    assert len(set(digests)) == 1


def sample_table(folder: Path, smiles: list[str], files: list[str | None] | None = None) -> Path:
    table = pd.DataFrame({"cid": range(1, len(smiles) + 1), "smiles": smiles, "canonical": smiles})
    table["length"] = table["smiles"].str.len()
    table["split"] = "train"
    table["file"] = files or [None] * len(smiles)
    table["spare"] = False
    table.to_parquet(folder / "sample.parquet", index=False)
    return folder / "sample.parquet"


def draw_shard(source: Path, **options: object) -> np.ndarray:
    """Draw a sample as one shard; the pictures, in the order of their CIDs."""
    folder = source.parent
    settings = {"depiction": Depiction(size=64), "out": folder / "0.parquet", "rejects": folder / "render-0.csv"}
    render(source, store=folder / "store", **(settings | options))  # type: ignore[arg-type]
    found = []
    for _, _, name, number in pd.read_parquet(settings["out"]).itertuples(index=False):
        with h5py.File(folder / "store" / name) as file:
            found.append(file["images"][number].transpose(1, 2, 0))
    return np.array(found)


def pack_shard(folder: Path, shards: int = 1, render_rejects: Path | None = None, drawings: int = 1) -> None:
    pack(
        folder / "sample.parquet",
        folder,
        store=folder / "store",
        shards=shards,
        out=folder / "images.h5",
        tokens=folder / "tokens.json",
        vocabulary=folder / "vocabulary.json",
        rejects=folder / "pack.csv",
        render_rejects=render_rejects,
        drawings=drawings,
    )


def test_what_cannot_be_drawn_is_counted_and_left_out(tmp_path: Path) -> None:
    source = sample_table(tmp_path, ["CCO", "C(C", "CCN"])
    draw_shard(source)
    assert pd.read_csv(tmp_path / "render-0.csv")[["cid", "reason"]].to_numpy().tolist() == [[2, "not_drawn"]]
    pack_shard(tmp_path)
    assert Packed(tmp_path / "images.h5").cid.tolist() == [1, 3]
    assert pd.read_csv(tmp_path / "pack.csv").to_numpy().tolist() == [["not_drawn", 1, "C(C"]]
    pack_shard(tmp_path, render_rejects=tmp_path)
    assert pd.read_csv(tmp_path / "pack.csv")["example"].tolist() == ["C(C: RDKit cannot parse it"]


def supplied(folder: Path, form: str = "folder") -> Path:
    """Pictures of many kinds, each of the same drawing; two blank ones, and one that is none."""
    place = folder / "png"
    place.mkdir()
    plain = sheet()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    grey = np.asarray(plain.convert("L"))
    plain.save(place / "plain.png")
    plain.transpose(Image.Transpose.ROTATE_90).save(place / "turned.jpg", quality=95, exif=exif)
    light_on_transparent(plain).save(place / "transparent.png")
    ImageOps.invert(plain).save(place / "inverted.png")
    Image.fromarray(grey.astype(np.uint16) * 16).save(place / "twelve.png")  # 12 bits of 16
    Image.fromarray(grey.astype(np.uint16) * 257).save(place / "sixteen.tif")
    plain.quantize(16).save(place / "palette.gif")
    Image.new("RGB", (90, 60), "white").save(place / "white.png")
    Image.new("RGBA", (90, 60)).save(place / "clear.png")
    (place / "broken.png").write_bytes(b"\x89PNG no")
    if form == "folder":
        return place
    with zipfile.ZipFile(folder / "png.zip", "w") as archive:
        for path in place.iterdir():
            archive.write(path, path.name)
    return folder / "png.zip"


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_supplied_pictures_are_prepared_as_ones_own_are(tmp_path: Path, form: str) -> None:
    place = supplied(tmp_path, form)
    names = sorted(path.name for path in (tmp_path / "png").iterdir())
    depiction = Depiction(size=64)
    found = draw_shard(sample_table(tmp_path, ["C" * n for n in range(1, 11)], names), pictures=place)
    refused = pd.read_csv(tmp_path / "render-0.csv")
    assert dict(zip([names[cid - 1] for cid in refused["cid"]], refused["reason"], strict=True)) == {
        "broken.png": "bad_picture",
        "clear.png": "blank_picture",
        "white.png": "blank_picture",
    }
    assert "broken.png" in refused["example"][0]
    read = [name for cid, name in enumerate(names, 1) if cid not in refused["cid"].tolist()]
    assert len(read) == len(found) == 7
    plain = load(tmp_path / "png" / "plain.png", depiction)
    for name, picture in zip(read, found, strict=True):
        np.testing.assert_array_equal(picture, load(tmp_path / "png" / name, depiction), name)
        assert distance(picture, plain) < 0.01, name
    pack_shard(tmp_path, render_rejects=tmp_path)
    assert len(Packed(tmp_path / "images.h5")) == 7
    assert dict(pd.read_csv(tmp_path / "pack.csv")[["reason", "count"]].to_numpy()) == {
        "blank_picture": 2,
        "bad_picture": 1,
    }


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_supplied_pictures_in_the_frame_stay_pixel_for_pixel(tmp_path: Path, order: str) -> None:
    """As the contest's do, 300 × 300 in RGB, with red and blue as they come; also where they do not fill the frame."""
    smiles = ["O", "CC", "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O", "C" * 40]
    folder = tmp_path / "png"
    folder.mkdir()
    drawings = [draw(Chem.MolFromSmiles(text), Depiction(channel_order=order)) for text in smiles]
    drawings[3] = np.roll(drawings[3], 20, axis=1)  # not centred
    for cid, drawing in enumerate(drawings, 1):
        Image.fromarray(drawing).save(folder / f"{cid}.png")
    source = sample_table(tmp_path, smiles, [f"{cid}.png" for cid in range(1, 6)])
    found = draw_shard(source, pictures=folder, depiction=Depiction(channel_order=order))
    np.testing.assert_array_equal(found, drawings)


def test_supplied_pictures_of_the_frames_size_are_put_upright_and_on_white(tmp_path: Path) -> None:
    drawing = Image.fromarray(draw(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"), Depiction()))
    ImageOps.invert(drawing).save(tmp_path / "inverted.png")
    for order in ("rgb", "bgr"):
        depiction = Depiction(channel_order=order)
        np.testing.assert_array_equal(load_supplied(stored(drawing), depiction), np.asarray(drawing))
        inverted = load_supplied(tmp_path / "inverted.png", depiction)
        assert np.median(inverted) == 255
        assert distance(inverted, np.asarray(drawing)) < 0.01
    grey = Depiction(palette="black_and_white")
    assert load_supplied(stored(drawing), grey).shape == (300, 300, 1)
    assert load_supplied(stored(drawing), grey).min() < 30  # a coloured label is black, as one's own would be


def test_no_text_travels_with_a_picture(dataset: Path) -> None:
    # RDKit hides the SMILES in the metadata of its PNG; here only pixels are kept.
    with h5py.File(dataset / "images.h5") as file:
        assert list(file["images"].attrs) == []
        assert file["images"].dtype == np.uint8


def test_the_checksum_is_that_of_hdf5(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w", libver="v110") as file:
        images = create(file, 20, Depiction(size=64))
        for at in range(20):  # through HDF5's own filters
            images[at] = generator.integers(0, 256 if at % 2 else 2, (3, 64, 64), dtype=np.uint8)
        for at in range(20):
            assert frame_of(read_chunk(images, at))
    for data in (
        b"",
        b"\0\0",
        b"\xff",
        b"\xff\xff",
        bytes(1001),
        b"\xff" * 100_001,
        b"\xff" * 262_145,
        b"\xfe" * 600_000,
    ):
        words = [int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2)]
        first = second = 0
        for word in words:
            first += word
            second += first
        low, high = (value and (value % 65535 or 65535) for value in (first, second))
        assert fletcher32(data) == high << 16 | low


def test_a_damaged_picture_is_named(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "images.h5"
    data = bytearray((dataset / "images.h5").read_bytes())
    with h5py.File(dataset / "images.h5") as file:
        cid = int(file["cid"][7])
        info = file["images"].id.get_chunk_info_by_coord((7, 0, 0, 0))
    data[info.byte_offset + info.size // 2] ^= 0x10
    copy.write_bytes(bytes(data))
    packed = Packed(copy)
    packed.picture(6)
    with pytest.raises(UserError, match=rf"picture 7 \(CID {cid}\) is damaged"):
        packed.picture(7)
    with pytest.raises(UserError, match=rf"^{copy}: picture 7 \(CID {cid}\) is damaged"):  # one line, no traceback
        list(Loader(packed, [np.array([6]), np.array([7])], 1, workers=1, pin=False))
    with h5py.File(copy) as file, pytest.raises(OSError, match="filter returned failure"):  # whoever reads it
        file["images"][7]


def test_a_data_set_in_use_can_be_handed_to_another_process(dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    first = packed.picture(3)
    other = pickle.loads(pickle.dumps(packed))
    np.testing.assert_array_equal(other.picture(3), first)
    expected = packed.pictures(range(len(packed)))
    queue = multiprocessing.get_context("fork").SimpleQueue()
    forked = multiprocessing.get_context("fork").Process(target=lambda: queue.put(packed.pictures(range(len(packed)))))
    forked.start()
    np.testing.assert_array_equal(queue.get(), expected)
    forked.join()
    np.testing.assert_array_equal(packed.picture(3), first)  # here as before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_whole_until_two_more_are_taken(dataset: Path, workers: int) -> None:
    packed = Packed(dataset / "images.h5")
    generator = np.random.default_rng(0)
    positions = [generator.integers(0, len(packed), size=generator.integers(1, 9)) for _ in range(40)]
    last = None
    for number, batch in enumerate(Loader(packed, positions, max(map(len, positions)), workers=workers, pin=False)):
        assert sorted(batch.positions) == sorted(positions[number])
        assert batch.pictures.shape == (len(batch.positions), 1, 64, 64)
        time.sleep(0.005)  # for the processes to get as far ahead as they may
        for some in (last, batch):
            if some is not None:
                np.testing.assert_array_equal(some.pictures.numpy(), packed.pictures(some.positions))
        last = batch
    assert number == 39


def test_parts_are_pinned_into_one_batch_in_whatever_order_they_come(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Packed(dataset / "images.h5")
    real = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda like, pin_memory: real(like))  # no GPU to pin memory for
    positions = [np.arange(9), np.arange(5, 10)]
    pictures = Loader(packed, positions, 9, workers=3, pin=False)._pictures
    items = [pictures[item] for item in pictures.items(positions)]
    assert len(items) == 6
    for part in (items[i] for i in (4, 1, 2, 0, 5, 3)):
        assert isinstance(part, Part)
        assert part.pin_memory() is part
    for slot in pictures.slots:
        slot.zero_()
    for number, first in enumerate((items[0], items[3])):
        assert isinstance(first, Part)
        assert first.texts is not None
        batch = pictures.batch(number, first.texts)
        np.testing.assert_array_equal(batch.pictures.numpy(), packed.pictures(batch.positions))
        assert sorted(batch.positions) == positions[number].tolist()
    assert pictures.pinned == {}


@pytest.mark.parametrize("workers", [1, 8])
def test_the_places_for_batches_do_not_grow_with_the_processes(dataset: Path, workers: int) -> None:
    packed = Packed(dataset / "images.h5")
    loader = Loader(packed, [np.arange(4)], 4, workers=workers, pin=False)  # whose processes do not start yet
    assert len(loader._pictures.slots) == 4


def test_too_little_shared_memory_is_reported_with_its_size_and_setting(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Packed(dataset / "images.h5")
    needed = 4 * 100 * 64 * 64
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    for setting in ("training.batch", "training.risk.batch"):
        with pytest.raises(UserError, match=rf"/dev/shm is too small for 4 batches .* 2 MB are needed.*{setting}"):
            Loader(packed, [np.arange(9)], 100, workers=2, pin=False, setting=setting)
    Loader(packed, [np.arange(9)], 100, workers=0, pin=False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed))
    Loader(packed, [np.arange(9)], 100, workers=2, pin=False)


SMALL = """
import sys
from pathlib import Path
import numpy as np
from ocsrflow.network import batches as loader
from ocsrflow.runtime.errors import UserError
from ocsrflow.pictures.packed_file import Packed
if __name__ == "__main__":
    class Free:
        free = 1 << 60
    loader.shutil.disk_usage = lambda path: Free  # as if another process took what was free
    try:
        list(loader.Loader(Packed(Path(sys.argv[1])), [np.arange(9)], 1000, workers=1, pin=False))
    except UserError as error:
        print(error)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/dev/shm"], capture_output=True).returncode,
    reason="needs the right to mount",
)
def test_a_shared_memory_of_8_megabytes_is_reported(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    command = 'mount -t tmpfs -o size=8m none /dev/shm && exec "$@"'
    words = [sys.executable, str(tmp_path / "small.py"), str(dataset / "images.h5")]
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, "sh", *words], capture_output=True, text=True, timeout=120
    )
    assert run.stdout.startswith("/dev/shm is too small for 4 batches of 1000 pictures: 16 MB are needed"), run.stderr


def test_a_damaged_shard_is_reported(tmp_path: Path) -> None:
    sample_table(tmp_path, ["CCO"])
    (tmp_path / "0.parquet").write_bytes(b"no Parquet")
    with pytest.raises(UserError, match=r"0\.parquet: damaged"):
        pack_shard(tmp_path)


def test_training_molecules_have_several_drawings(tmp_path: Path) -> None:
    source = sample_table(tmp_path, ["CCO", "c1ccccc1N", "CC(=O)OC"])
    table = pd.read_parquet(source)
    table["split"] = ["train", "test", "train"]
    table.to_parquet(source, index=False)
    depiction = Depiction(size=64, palette="black_and_white", styles="varied")  # type: ignore[arg-type]
    pictures = draw_shard(source, depiction=depiction, drawings=3)
    assert len(pictures) == 3 + 1 + 3
    assert len({picture.tobytes() for picture in pictures}) == 7
    pack_shard(tmp_path, drawings=3)
    packed = Packed(tmp_path / "images.h5")
    assert packed.text("smiles", range(len(packed))) == ["CCO"] * 3 + ["c1ccccc1N"] + ["CC(=O)OC"] * 3
    assert len(packed.members("train")) == 6
    assert np.array_equal([packed.picture(at) for at in range(7)], pictures)


def test_a_drawing_that_is_missing_leaves_the_others(tmp_path: Path) -> None:
    source = sample_table(tmp_path, ["CCO", "CCN"])
    depiction = Depiction(size=64, palette="black_and_white", styles="varied")  # type: ignore[arg-type]
    draw_shard(source, depiction=depiction, drawings=2)
    index = pd.read_parquet(tmp_path / "0.parquet")
    index.drop(index=1).to_parquet(tmp_path / "0.parquet", index=False)  # as if the second one could not be drawn
    pack_shard(tmp_path, drawings=2)
    assert Packed(tmp_path / "images.h5").text("smiles", range(3)) == ["CCO", "CCN", "CCN"]
    assert pd.read_csv(tmp_path / "pack.csv")[["reason", "count"]].to_numpy().tolist() == [["not_drawn", 1]]
