"""A packed data set holds what its sample and its pictures give, whatever these are."""

import functools
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocsrflow.chem.molecules import canonical
from ocsrflow.chem.tokenizer import decode, encode
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw as draw_picture
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import SPLITS, Packed
from ocsrflow.pictures.render import render
from ocsrflow.runtime.errors import UserError
from rdkit import Chem

# Each example runs the stage, which takes tens of milliseconds.
STAGES = settings(max_examples=20, suppress_health_check=list(HealthCheck))

# Some are spellings of one molecule.
ACIDS = [f"{'C' * n}C(=O)O" for n in range(5)] + [f"OC(=O)C{'C' * n}" for n in range(5)]
RINGS = ["c1ccccc1", "C1=CC=CC=C1", "C1CCCCC1", "c1ccncc1", "n1ccccc1", "C1CC1", "O=C=O"]
CHAINS = [a + b + c + d for a in "CNO" for b in "CS" for c in "CNO" for d in "CFO"]

FIRST = 2**33  # CIDs beyond 32 bits
PIXELS = Depiction(size=32, palette="black_and_white")


class Shelf(NamedTuple):
    """Drawn molecules, and the folder with their pictures."""

    folder: Path
    smiles: list[str]  # that of CID FIRST + n is number n


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Molecules drawn by the stage render; two cannot be drawn, and one has a picture but a text without tokens."""
    folder = tmp_path_factory.mktemp("shelf")
    smiles = [*dict.fromkeys([*ACIDS, *RINGS, *CHAINS[:20]]), "C(C", "[Xx]", "CS"]
    table = pd.DataFrame({"cid": range(FIRST, FIRST + len(smiles)), "smiles": smiles, "file": [None] * len(smiles)})
    table["split"] = "train"
    table.to_parquet(folder / "sample.parquet", index=False)
    render(
        folder / "sample.parquet", store=folder / "store", out=folder / "all.parquet",
        rejects=folder / "render-0.csv", depiction=PIXELS,
    )  # fmt: skip
    refused = pd.read_csv(folder / "render-0.csv")["cid"].tolist()
    assert [smiles[cid - FIRST] for cid in refused] == ["C(C", "[Xx]"]
    smiles[-1] = "CS |$R$|"
    return Shelf(folder, smiles)


def has_tokens(smiles: str) -> bool:
    try:
        encode(smiles)
    except ValueError:
        return False
    return True


@STAGES
@given(st.data())
def test_what_is_packed_is_what_is_read(shelf: Shelf, data: st.DataObject) -> None:
    cids = data.draw(st.lists(st.integers(FIRST, FIRST + len(shelf.smiles) - 1), min_size=1, max_size=30, unique=True))
    spares = data.draw(st.integers(0, len(cids) - 1))
    by_length = data.draw(st.booleans())
    shards = data.draw(st.integers(1, 3))
    lost = set(data.draw(st.lists(st.sampled_from(cids), max_size=4)))  # have no picture, for whatever reason
    rows = pd.DataFrame({"cid": cids, "smiles": [shelf.smiles[cid - FIRST] for cid in cids]})
    rows["canonical"] = rows["smiles"].map(lambda text: canonical(text) or text)
    rows["length"] = rows["smiles"].str.len()
    rows["split"] = data.draw(st.lists(st.sampled_from(SPLITS), min_size=len(cids), max_size=len(cids)))
    rows["spare"] = np.arange(len(cids)) >= len(cids) - spares
    index = pd.read_parquet(shelf.folder / "all.parquet")
    index = index[index["cid"].isin(set(cids) - lost)]

    # As the stage's description says it: a spare takes the place of one that was left out, of its length where asked.
    expected, refused, open_places = [], 0, Counter[int]()
    for row in rows.itertuples():
        key = row.length if by_length else 0
        if row.spare and not open_places[key]:
            continue
        if row.cid not in set(index["cid"]) or not has_tokens(row.smiles):
            refused += 1
            open_places[key] += not row.spare
            continue
        open_places[key] -= row.spare
        expected.append(row)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        notes = {"sample": "{}", "spares": "length" if by_length else "any"}
        pq.write_table(pa.Table.from_pandas(rows).replace_schema_metadata(notes), folder / "sample.parquet")
        for shard in range(shards):
            index[index["cid"] % shards == shard].to_parquet(folder / f"{shard}.parquet", index=False)
        files = {key: folder / key for key in ("out", "tokens", "vocabulary", "rejects")}
        stage = functools.partial(
            pack, folder / "sample.parquet", folder, store=shelf.folder / "store", shards=shards, **files
        )
        if not expected:
            with pytest.raises(UserError, match="no molecule has both a picture and tokens"):
                stage()
            return
        stage()
        found = Packed(folder / "out")
        everything = range(len(found))
        assert found.cid.tolist() == [row.cid for row in expected]
        assert [SPLITS[split] for split in found.split] == [row.split for row in expected]
        assert found.text("smiles", everything) == [row.smiles for row in expected]
        assert found.text("canonical", everything) == [row.canonical for row in expected]
        pictures = found.pictures(everything)
        for at, row in enumerate(expected):
            assert decode(found.tokens_of(at)) == row.smiles
            drawing = draw_picture(Chem.MolFromSmiles(row.smiles), PIXELS, row.cid)
            np.testing.assert_array_equal(pictures[at].transpose(1, 2, 0), drawing)
        entries = json.loads((folder / "tokens").read_text())
        assert [(entry["cid"], decode(entry["tokens"])) for entry in entries] == [(r.cid, r.smiles) for r in expected]
        assert pd.read_csv(folder / "rejects")["count"].sum() == refused
