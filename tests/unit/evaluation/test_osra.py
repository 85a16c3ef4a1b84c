"""OSRA beside the models: the program itself where it is installed, and stand-ins that crash, hang or are not there."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ocsrflow.chem.molecules import canonical
from ocsrflow.config.depiction import Depiction
from ocsrflow.depiction.plain import draw
from ocsrflow.evaluation.osra import as_image, osra
from ocsrflow.pictures.benchmark_set import benchmark_set
from ocsrflow.pictures.originals import as_png, write_originals
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.runtime.errors import UserError
from PIL import Image
from rdkit import Chem
from support.needs import need
from support.processes import program


def asked(dataset: Path, folder: Path, **options: object) -> tuple[pd.DataFrame, dict]:
    out, facts = folder / "osra.parquet", folder / "osra.json"
    osra(dataset / "images.h5", out=out, facts=facts, **options)  # type: ignore[arg-type]
    return pd.read_parquet(out), json.loads(facts.read_text())


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a script in OSRA's place."""
    path = program(folder / "bin/osra", f'if [ "$1" = --version ]; then echo OSRA 9.9; exit; fi\n{script}')
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")


def test_where_it_is_not_installed_one_line_says_so(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    rows, facts = asked(dataset, tmp_path)
    assert rows.empty
    assert list(rows)[:4] == ["cid", "id", "reference", "prediction"]
    assert facts["missing"] == "osra is not installed: apt install osra (or take it out of baselines)"
    assert capsys.readouterr().out.splitlines() == [facts["missing"]]


def test_a_picture_that_crashes_it_or_takes_too_long_costs_itself(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Packed(dataset / "images.h5")
    crashing, hanging, silent, odd = packed.members("test")[:4]
    script = f"""
case $(basename "$1") in
  {crashing}.png) kill -SEGV $$ ;;
  {hanging}.png) exec sleep 60 ;;
  {silent}.png) ;;
  {odd}.png) printf 'C1CC trailing\\nCC 2\\n\\377\\n' ;;
  *) echo CCO ;;
esac"""
    stand_in(tmp_path, monkeypatch, script)
    rows, facts = asked(dataset, tmp_path, processes=2, seconds=1.0)
    assert rows["prediction"].tolist()[:3] == ["", "", ""]
    assert rows["prediction"][3] == "C1CC.CC.\N{REPLACEMENT CHARACTER}"  # several structures, the first words
    assert set(rows["prediction"][4:]) == {"CCO"}
    assert rows["valid"].tolist() == [False] * 4 + [True] * (len(rows) - 4)
    assert rows["seconds"][1] == 1.0
    assert [list(texts) for texts in rows["candidates"][2:5]] == [[], [rows["prediction"][3]], ["CCO"]]
    assert rows["log_probability"].isna().all()
    assert rows["reference"].tolist() == packed.text("smiles", packed.members("test"))
    counted = {name: facts[name] for name in ("read", "nothing_found", "crashed", "too_slow")}
    assert counted == {"read": len(rows) - 3, "nothing_found": 1, "crashed": 1, "too_slow": 1}
    assert facts["version"] == "9.9"
    assert 0 < facts["seconds_per_image"] < 1


def test_no_pictures_are_reported(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its test split is empty"):
        asked(dataset, tmp_path, size=0)


def test_it_is_given_grey_or_rgb_and_small_pictures_enlarged() -> None:
    molecule = Chem.MolFromSmiles("CCO")
    picture = draw(molecule, Depiction(size=300, channel_order="bgr"))
    image = as_image(picture, "bgr")
    assert image.size == (450, 450)
    red, _, blue = np.asarray(image).astype(int).sum(axis=(0, 1))
    assert red > blue  # OH is red
    assert as_image(draw(molecule, Depiction(size=96, palette="black_and_white")), "rgb").size == (288, 288)
    large = as_image(draw(molecule, Depiction(size=500)), "rgb")
    assert (large.size, large.mode) == ((500, 500), "RGB")


def test_it_is_given_the_originals_as_they_are(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed(dataset / "images.h5")
    first, second = packed.first("test", 2)
    with write_originals(tmp_path / "originals.zip", {}) as archive:
        for number, at in enumerate((first, second), 1):
            archive.add(int(packed.cid[at]), as_png(np.full((30 * number, 40, 3), 255, np.uint8)))
    size = "import sys; from PIL import Image; print('{}x{}'.format(*Image.open(sys.argv[1]).size))"
    stand_in(tmp_path, monkeypatch, f'exec {sys.executable} -c "{size}" "$1"')
    rows, _ = asked(dataset, tmp_path, size=2, originals=tmp_path / "originals.zip")
    assert rows["prediction"].tolist() == ["40x30", "40x60"]
    with pytest.raises(UserError, match=r"originals\.zip: picture '\d+\.png' cannot be read"):
        asked(dataset, tmp_path, size=3, originals=tmp_path / "originals.zip")


def test_the_program_itself_reads_a_large_picture(tmp_path: Path) -> None:
    need("osra")
    texts = ["CC(=O)Nc1ccc(O)cc1", "OC(=O)c1ccccc1Cl", "CCOC(=O)C1CCCCC1"]
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        Image.fromarray(draw(Chem.MolFromSmiles(text), Depiction())).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "r.csv").write_text("id,smiles\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    places = {
        "out": tmp_path / "images.h5",
        "originals": tmp_path / "originals.zip",
        "rejects": tmp_path / "rejects.csv",
    }
    frame = Depiction(size=96, palette="black_and_white")  # too small for OSRA
    benchmark_set(tmp_path / "in", tmp_path / "r.csv", **places, name="three", depiction=frame)
    rows, facts = asked(tmp_path, tmp_path, originals=tmp_path / "originals.zip")
    assert facts["read"] == 3
    assert [canonical(text) for text in rows["prediction"]] == [canonical(text) for text in texts]
    rows, _ = asked(tmp_path, tmp_path)
    assert [canonical(text) for text in rows["prediction"]] != [canonical(text) for text in texts]
