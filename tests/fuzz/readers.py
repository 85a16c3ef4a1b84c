"""The readers of what comes from elsewhere, each as a function of a file, and files to begin with."""

import atexit
import functools
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from ocsrflow.chem.tokenizer import VOCABULARY, encode
from ocsrflow.config import experiment, planning
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.given_files import missing_files
from ocsrflow.config.network import Network
from ocsrflow.config.reading import Reading
from ocsrflow.config.training import Training
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.picture_folder import UNREADABLE, PictureFolder
from ocsrflow.ensemble.calibrate import Calibration, confidence
from ocsrflow.network.model import EncoderDecoder, load_model
from ocsrflow.pictures.benchmark_set import benchmark_set
from ocsrflow.pictures.pack import PictureIndex
from ocsrflow.pictures.packed_file import SPLITS, TEXTS, Packed
from ocsrflow.pictures.packed_writer import PackedWriter
from ocsrflow.pictures.picture_chunks import Compressor, create, write_chunk
from ocsrflow.pictures.picture_files import load, load_supplied
from ocsrflow.pictures.picture_store import PictureStore, picture_hash
from ocsrflow.pictures.render import INDEX
from ocsrflow.reader.ensemble_reader import EnsembleReader
from ocsrflow.reader.find_models import find_models
from ocsrflow.runtime.errors import UserError
from ocsrflow.training.checkpoints import Checkpoints
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from support.checkout import REPOSITORY

SMALL = Depiction(size=32, palette="black_and_white")
TINY = Network(encoder="shufflenet_v2_x0_5", pretrained="none", frozen_children=0, image_size=32, grid=1, dim=8)
SMILES = ("CCO", "C", "c1ccccc1")
KEY = "0123456789ab"  # of the trainings whose checkpoints are read


class Reader(NamedTuple):
    """A reader and what it may raise."""

    read: Callable[[Path], None]
    refusals: tuple[type[Exception], ...] = (UserError,)
    lines: int = 1  # of text, in what it raises


def corpus(path: Path) -> None:
    """The stage filter; what is kept and what is rejected are all lines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {key: folder / key for key in ("kept", "lengths", "rejects", "record")}
        filter_corpus(path, max_length=20, **files)
        rejects = pd.read_csv(folder / "rejects", keep_default_na=False)
        about = json.loads((folder / "record").read_text())
        assert about["kept"] + rejects.loc[rejects["dropped"], "count"].sum() == about["lines"]
        assert len(pd.read_parquet(folder / "kept")) == about["kept"]


def table(path: Path) -> None:
    """The CSV of supplied pictures, as the stage filter reads it, and that of a benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        (folder / "pictures" / "a.png").write_bytes(pictures()[0])
        files = {key: folder / key for key in ("kept", "lengths", "rejects")}
        _all(
            lambda: filter_corpus(path, form="pictures", pictures=folder / "pictures", max_length=20, **files),
            lambda: benchmark_set(
                folder / "pictures", path, out=folder / "b.h5", originals=folder / "b.zip", rejects=folder / "b.csv",
                name="b", depiction=SMALL, id_column="file_name", smiles_column="SMILES",
            ),
        )  # fmt: skip


def _all(*reads: Callable[[], object]) -> None:
    """Read in several ways, of which none may keep from the others; raises the refusal of most lines."""
    refused: list[Exception] = []
    for read in reads:
        try:
            read()
        except (UserError, ValueError) as error:
            refused.append(error)
    if refused:
        raise max(refused, key=lambda error: str(error).count("\n"))


def own_picture(path: Path) -> None:
    """A picture to be predicted."""
    found = load(path, SMALL)
    assert found.shape == (32, 32, 1)


def supplied_picture(path: Path) -> None:
    """A picture of the contest's form."""
    found = load_supplied(path, SMALL)
    assert found.shape == (32, 32, 1)


def archive(path: Path) -> None:
    """A zip archive of pictures: all of it, both ways."""
    folder = PictureFolder(path)
    ways = (folder.read, lambda name: _opened(folder, name))
    _all(*(functools.partial(way, name) for name in sorted(folder.names()) for way in ways))


def _opened(folder: PictureFolder, name: str) -> None:
    """As the stage benchmark_set reads one."""
    try:
        with folder.open(name) as source:
            load(source, SMALL, name)
    except UNREADABLE as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def checkpoint(path: Path) -> None:
    """The newest checkpoint of a training; it is taken for damaged, or has what goes on from it."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(path, Path(name) / "step-000000001.pt")
        Checkpoints(Path(name), KEY, {"network": {}}).newest()


def packed(path: Path) -> None:
    """A packed data set: all that is in it."""
    found = Packed(path)
    everything = range(len(found))
    sizes = [len(found.members(split)) for split in SPLITS]
    assert sum(sizes) == len(found)
    assert len(found.ids(everything)) == len(found.text("smiles", everything)) == len(found)
    for at in everything:
        found.tokens_of(at)
    _all(*(functools.partial(found.pictures, [at]) for at in everything))


def shard(path: Path) -> None:
    """A file of the store of pictures: looked through by the stage render, and packed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "style").mkdir()
        (folder / "style/00000-of-00001-0.h5").symlink_to(path.resolve())
        hashes = np.array([picture_hash(cid, SMILES[cid]) for cid in range(len(SMILES))], np.uint64)
        PictureStore(folder, "style", 0, 1).find(hashes)
        rows = [(cid, 0, "style/00000-of-00001-0.h5", cid) for cid in range(len(SMILES))]
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, INDEX.names).cast(INDEX), folder / "0.parquet")
        index = PictureIndex(folder, [folder / "0.parquet"])
        assert index.attributes
        _all(*(functools.partial(index.chunk, at) for at in range(len(SMILES))))


def description(path: Path) -> None:
    """``model.json`` beside the right weights, as ``predict`` reads it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "results/models/tiny"
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "model.json")
        (folder / "weights.safetensors").symlink_to(tiny_model() / "weights.safetensors")
        EnsembleReader(find_models([folder]), "pairs", Reading(), torch.device("cpu"))


def calibration(path: Path) -> None:
    """What was learnt of a model's confidence, as ``predict`` reads it, and the confidence itself."""
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        (results / "models").mkdir()
        (results / "calibration").mkdir()
        (results / "models/tiny").symlink_to(tiny_model())
        shutil.copy(path, results / "calibration/tiny.json")
        reader = EnsembleReader(find_models([results / "models/tiny"]), "pairs", Reading(), torch.device("cpu"))
        rows = pd.DataFrame({"log_probability": [-1.0], "distance": [0.5], "valid": [True]})
        assert 0 <= confidence(rows, reader.calibrations[0])[0] <= 1


def members(path: Path) -> None:
    """The members of an ensemble, as ``predict`` reads them."""
    with tempfile.TemporaryDirectory() as name:
        results = Path(name)
        (results / "ensembles").mkdir()
        for name_of in ("one", "two"):
            (results / "models" / name_of).mkdir(parents=True)
            for file in ("model.json", "weights.safetensors"):
                (results / "models" / name_of / file).symlink_to(tiny_model() / file)
        shutil.copy(path, results / "ensembles/both.json")
        _all(
            lambda: find_models([results]),
            lambda: find_models([results / "models" / model for model in ("one", "two")]),
        )


def weights(path: Path) -> None:
    """``weights.safetensors`` beside the right description."""
    load_model(tiny_model() / "model.json", path, torch.device("cpu"))


@functools.cache
def tiny_model() -> Path:
    """A trained model of random weights; one for each process."""
    folder = Path(tempfile.mkdtemp(prefix="ocsrflow-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.set_num_threads(1)  # threads that wait for one another take long on a busy machine
    torch.manual_seed(0)
    save_file(EncoderDecoder(TINY, len(VOCABULARY)).state_dict(), folder / "weights.safetensors")
    facts = {"network": TINY.model_dump(), "training": Training(batch=16, decode_length=10).model_dump()}
    facts |= {"vocabulary": VOCABULARY, "depiction": SMALL.model_dump(), "name": "tiny", "key": "tiny"}
    (folder / "model.json").write_text(json.dumps(facts))
    return folder


def configuration(path: Path) -> None:
    """A configuration, with what the Snakefile asks of it first."""
    found = experiment.read(path)
    for dataset in found.datasets:
        assert planning.shards(found, dataset) >= 1
    planning.Plan(found)
    missing_files(found)


READERS = {
    "corpus": Reader(corpus),
    "table": Reader(table),
    "own_picture": Reader(own_picture, (ValueError,)),
    "supplied_picture": Reader(supplied_picture, (ValueError,)),
    "archive": Reader(archive, (UserError, ValueError)),
    "checkpoint": Reader(checkpoint),
    "packed": Reader(packed),
    "shard": Reader(shard),
    "description": Reader(description),
    "calibration": Reader(calibration),
    "members": Reader(members),
    "weights": Reader(weights),
    "configuration": Reader(configuration, lines=1000),  # a line for each mistake
}


# Files to begin with: each is read, and what is changed in them is what is tried.


def lines() -> list[bytes]:
    """Plain files of CID<TAB>SMILES lines."""
    good = b"".join(b"%d\tC%sO\n" % (cid, b"C" * (cid % 23)) for cid in range(1, 40))
    odd = b"1\tCCO\r\n1\tCCO\n\n2\n\t\n3\tC C\n-1\tC\n99999999999999999999\tC\n7\t\xff\n8\tN"
    return [good, odd]


def tables() -> list[bytes]:
    """CSVs of pictures and SMILES."""
    return [b"file_name,SMILES\na.png,CCO\n", b'\xef\xbb\xbfSMILES,"file_name"\r\n"CC","a.png"\r\n']


def drawing() -> Image.Image:
    """A small drawing."""
    image = Image.new("L", (40, 30), 255)
    ImageDraw.Draw(image).line([(4, 4), (20, 25), (35, 6)], fill=0, width=2)
    return image


def pictures() -> list[bytes]:
    """The same drawing in all kinds of files."""
    grey = drawing()
    colour = grey.convert("RGB")
    clear = Image.merge("LA", (grey, grey.point(lambda level: 255 - level)))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: list[tuple[Image.Image, str, dict[str, object]]] = [
        (grey, "PNG", {}),
        (clear, "PNG", {}),
        (grey.convert("1"), "PNG", {}),
        (colour.quantize(8), "PNG", {"transparency": 0}),
        (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", {}),
        (colour, "JPEG", {"exif": turned}),
        (colour.convert("CMYK"), "JPEG", {"progressive": True}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "TIFF", {"compression": "tiff_lzw", "save_all": True, "append_images": [grey]}),
        (Image.fromarray(np.asarray(grey).astype(np.float32)), "TIFF", {"compression": "tiff_deflate"}),
        (grey, "GIF", {"save_all": True, "append_images": [grey.rotate(9, fillcolor=255)]}),
        (colour, "WEBP", {"lossless": True}),
        (clear.convert("RGBA"), "WEBP", {"save_all": True, "append_images": [colour.convert("RGBA")]}),
        (colour, "BMP", {}),
    ]
    return [_stored(image, kind, options) for image, kind, options in kinds]


def _stored(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    file = io.BytesIO()
    image.copy().save(file, kind, **options)  # type: ignore[arg-type]  # Pillow keeps options with the image
    return file.getvalue()


def archives() -> list[bytes]:
    """Zip archives of pictures, compressed in all ways."""
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive_:
            archive_.writestr("a.png", pictures()[0])
            archive_.writestr("folder/b.gif", pictures()[10])
        found.append(file.getvalue())
    return found


def state() -> dict[str, object]:
    """The state of a small training after a step, of the same shape as that of a large one."""
    network = torch.nn.LSTM(3, 2)
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.zeros(1, 3))[0].sum().backward()
    optimiser.step()
    engine = {"model": network.state_dict(), "optimiser": optimiser.state_dict(), "averaged": None}
    progress = {"epoch": 1, "losses": [0.5], "best": 0.25, "history": [{"loss": 0.5}]}
    random = [{"cpu": torch.get_rng_state()}]
    return {"engine": engine, "state": progress, "best": network.state_dict(), "random": random}


def checkpoints() -> list[bytes]:
    """Checkpoints of this training and of another one."""
    with tempfile.TemporaryDirectory() as name:
        return [Checkpoints(Path(name), key, {"network": {}}).save(1, state()).read_bytes() for key in (KEY, "other")]


def data_sets() -> list[bytes]:
    """A packed data set of three pictures, with room for few more."""
    file = io.BytesIO()
    with mock.patch("ocsrflow.pictures.packed_writer.ROWS", 4), h5py.File(file, "w", libver="v110") as h5:
        writer = PackedWriter(h5, SMALL, {"vocabulary": json.dumps(VOCABULARY), "sample": "{}"})
        picture = np.asarray(drawing().resize((32, 32)))[..., None]
        for cid, (smiles, split) in enumerate(zip(SMILES, SPLITS, strict=True)):
            writer.add(cid, split, Compressor().chunk(picture), encode(smiles), dict.fromkeys(TEXTS, smiles))
        writer.close()
    return [file.getvalue()]


def shards() -> list[bytes]:
    """A file of the store with three pictures."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver="v110") as h5:
        images = create(h5, len(SMILES), SMALL)
        for cid in range(len(SMILES)):
            write_chunk(images, cid, Compressor().chunk(np.asarray(drawing().resize((32, 32)))[..., None]))
        h5["cid"] = np.arange(len(SMILES), dtype=np.int64)
        h5["molecule"] = np.array([picture_hash(cid, smiles) for cid, smiles in enumerate(SMILES)], np.uint64)
        h5.attrs["rdkit"] = "2026.03"
    return [file.getvalue()]


def descriptions() -> list[bytes]:
    """The description of a model."""
    return [(tiny_model() / "model.json").read_bytes()]


def calibrations() -> list[bytes]:
    """A calibration."""
    learnt = Calibration(["log_probability", "distance"], [1.0, 2.0], [1.0, 1.0], [0.5, 0.5], [9.0, 9.0], 0.1, 9, 0.5)
    return [json.dumps(learnt.to_json()).encode()]


def ensembles() -> list[bytes]:
    """The members of an ensemble."""
    return [b'{"name": "both", "members": ["one", "two"]}']


def states() -> list[bytes]:
    """The weights of a model."""
    return [(tiny_model() / "weights.safetensors").read_bytes()]


def configurations() -> list[bytes]:
    """The configurations that are shipped."""
    paths = [REPOSITORY / "config.yaml", REPOSITORY / "tests/workflow/toy.yaml"]
    return [path.read_bytes() for path in paths]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "corpus": lines,
    "table": tables,
    "own_picture": pictures,
    "supplied_picture": pictures,
    "archive": archives,
    "checkpoint": checkpoints,
    "packed": data_sets,
    "shard": shards,
    "description": descriptions,
    "calibration": calibrations,
    "members": ensembles,
    "weights": states,
    "configuration": configurations,
}
