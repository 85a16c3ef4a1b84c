"""Small data sets of real molecules, models of random weights, and their scores, by the real stages."""

import gzip
import json
from pathlib import Path

import pandas as pd
import torch
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import Network
from ocsrflow.config.training import Training
from ocsrflow.corpus.sample import sample
from ocsrflow.evaluation.score import score
from ocsrflow.network.model import EncoderDecoder
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.render import render
from ocsrflow.runtime.files import write_json
from rdkit import RDConfig
from safetensors.torch import save_file


def make_dataset(
    kept: Path,
    folder: Path,
    *,
    size: int = 60,
    pixels: int = 64,
    max_length: int = 14,
    shards: int = 1,
    palette: str = "black_and_white",
) -> Path:
    """A packed data set of short NCI molecules; the folder of all its files."""
    depiction = Depiction.model_validate({"size": pixels, "palette": palette})
    sample(
        kept,
        out=folder / "sample.parquet",
        lengths=folder / "lengths.csv",
        rejects=folder / "rejects.csv",
        max_length=max_length,
        size=size,
        validation=0.15,
        test=0.15,
    )
    for shard in range(shards):
        render(
            folder / "sample.parquet",
            store=folder / "pictures",
            out=folder / "shards" / f"{shard}.parquet",
            rejects=folder / "render.csv",
            shard=shard,
            shards=shards,
            depiction=depiction,
        )
    pack(
        folder / "sample.parquet",
        folder / "shards",
        store=folder / "pictures",
        shards=shards,
        out=folder / "images.h5",
        tokens=folder / "tokens.json",
        vocabulary=folder / "vocabulary.json",
        rejects=folder / "pack.csv",
    )
    return folder


# Few layers: each makes the threads wait for one another, which takes long where others compute as well.
TINY = Network(encoder="resnet18", pretrained="none", frozen_children=0, image_size=32, stride=8, grid=4, dim=16)


def make_model(dataset: Path, folder: Path, seed: int) -> Path:
    """A model of random weights, as the stage ``train`` writes it; its folder."""
    packed = Packed(dataset / "images.h5")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_file(EncoderDecoder(TINY, len(packed.vocabulary)).state_dict(), folder / "weights.safetensors")
    facts = {"network": TINY.model_dump(), "training": Training(batch=16, decode_length=10).model_dump()}
    facts |= {"vocabulary": packed.vocabulary, "depiction": packed.depiction.model_dump()}
    (folder / "model.json").write_text(json.dumps({"name": folder.name, "key": folder.name, **facts}))
    return folder


def make_scores(results: Path, reader: str, answers: list[str]) -> None:
    """What the stages before leave of a reader's answers."""
    read, scored = results / "predictions/test" / reader, results / "scores/test" / reader
    read.parent.mkdir(parents=True, exist_ok=True)
    rows = {"cid": [1, 2, 3], "id": ["1", "2", "3"], "reference": ["CCO", "CCN", "c1ccccc1"], "prediction": answers}
    pd.DataFrame(rows).to_parquet(f"{read}.parquet")
    write_json(Path(f"{read}.json"), {"name": reader, "kind": "model", "seconds_per_image": 0.5, "device": "CPU"})
    score(
        Path(f"{read}.parquet"), facts=Path(f"{read}.json"), test_set="test",
        out=Path(f"{scored}.json"), images=Path(f"{scored}.parquet"),
    )  # fmt: skip


def gzipped(text: str | bytes) -> bytes:
    """Text as gzip bytes."""
    return gzip.compress(text.encode() if isinstance(text, str) else text)


def draw(kept: Path, folder: Path, **options: object) -> pd.DataFrame:
    """What the stage sample draws, without the spares."""
    settings: dict[str, object] = {"max_length": 20, "validation": 0.1, "test": 0.1} | options
    folder.mkdir(exist_ok=True)
    sample(
        kept,
        out=folder / "sample.parquet",
        lengths=folder / "lengths.csv",
        rejects=folder / "rejects.csv",
        **settings,  # type: ignore[arg-type]
    )
    rows = pd.read_parquet(folder / "sample.parquet")
    assert rows["spare"].is_monotonic_increasing
    return rows[~rows["spare"]].drop(columns="spare")


def write_kept(path: Path, cids: object, smiles: list[str], files: list[str] | None = None) -> Path:
    """What the stage filter would have written."""
    table = pd.DataFrame({"cid": cids, "smiles": smiles, "file": files})
    table["length"] = table["smiles"].str.len().astype("uint16")
    table.to_parquet(path, index=False)
    return path


# The icosahedral core of gold clusters: RDKit lists all its paths for the fingerprint, for seconds.
GOLD = (
    "[Au]12345[Au]6789[Au]1%10%11%12[Au]21%13%14[Au]32%15%16[Au]463%17[Au]746%18[Au]8%107%19"
    "[Au]%1118%10[Au]%1321%11[Au]3%1542[Au]7681[Au]59%12%17%14%16%19%18%102%11"
)


def nci(count: int | None = None) -> list[str]:
    """SMILES of NCI's molecules, as RDKit has them: the first ones, or all 4,999."""
    text = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="ascii")
    return [line.split("\t")[0] for line in text.splitlines()[:count]]
