"""What the report is made of: gallery, costs, captions, provenance."""

import json
import math
import re
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.config import provenance
from ocsrflow.config.experiment import Config, load
from ocsrflow.report import figures, reproduction
from ocsrflow.report.attend import choose_answers
from ocsrflow.report.costs import costs
from ocsrflow.report.gallery import _place_alike as place_alike
from ocsrflow.report.gallery import choose_rows, draw_difference, pieces
from ocsrflow.report.published import CAPTIONS, caption_of
from ocsrflow.report.report import _robust
from ocsrflow.report.report_figures import robustness_figure
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdFMCS
from support.checkout import REPOSITORY

TSV = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def predictions(**columns: list) -> pd.DataFrame:
    rows = pd.DataFrame(columns)
    return rows.sort_values("tanimoto", ascending=False, kind="stable")


def test_the_gallery_has_a_quarter_of_each_kind() -> None:
    kinds = [(1.0, True, True)] * 20 + [(0.5, False, True)] * 20 + [(0.0, False, False)] * 20
    rows = predictions(
        tanimoto=[t - at / 1000 for at, (t, _, _) in enumerate(kinds)],
        exact=[e for _, e, _ in kinds],
        valid=[v for _, _, v in kinds],
        confidence=[at / 60 for at in range(60)],
    )
    shown = choose_rows(rows, 12)
    assert shown["verdict"].value_counts().to_dict() == {"right": 3, "wrong": 3, "invalid": 6}
    surest = shown[shown["confident"]]
    assert sorted(surest["confidence"]) == [57 / 60, 58 / 60, 59 / 60]
    assert list(shown["verdict"].drop_duplicates()) == ["right", "wrong", "invalid"]
    # Wrong ones from near to far, the nearest and the farthest among them.
    wrong = rows[(~rows["exact"]) & rows["valid"]]["tanimoto"]
    assert list(shown.loc[shown["verdict"] == "wrong", "tanimoto"])[::2] == [wrong.max(), wrong.min()]


@given(
    st.lists(st.tuples(st.sampled_from(["right", "wrong", "invalid"]), st.floats(0, 1)), max_size=30),
    st.integers(0, 12),
)
def test_the_gallery_takes_as_many_as_there_are_each_once(found: list[tuple[str, float]], size: int) -> None:
    rows = predictions(
        cid=list(range(len(found))),
        tanimoto=[t for _, t in found],
        exact=[kind == "right" for kind, _ in found],
        valid=[kind != "invalid" for kind, _ in found],
        confidence=[t for _, t in found],
    )
    shown = choose_rows(rows, size)
    assert len(shown) == min(size, len(found))
    assert shown["cid"].is_unique
    assert not (shown["confident"] & shown["exact"]).any()


def test_a_reader_without_confidences_has_a_gallery_too() -> None:
    rows = predictions(tanimoto=[1.0, 0.2], exact=[True, False], valid=[True, True])
    assert list(choose_rows(rows, 24)["verdict"]) == ["right", "wrong"]


def test_what_differs_of_two_smiles_is_reported_token_by_token() -> None:
    read, wanted = pieces("CCBr", "CCCl")
    assert read == [("CC", False), ("Br", True)]
    assert wanted == [("CC", False), ("Cl", True)]
    assert pieces("", "CC") == ([], [("CC", True)])
    assert pieces("C!C", "CC")[0] == [("C", False), ("!", True), ("C", False)]  # of another program


@pytest.mark.parametrize(
    ("prediction", "reference", "remark"),
    [
        ("CCO", "CCN", ""),
        ("C1CC", "CCN", ""),  # no molecule
        ("CCO", "[Na+]", "nothing in common"),
        ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "only stereo differs"),
        ("CC[NH3+]", "CCN", ""),  # the charge is marked
    ],
)
def test_the_difference_is_drawn_or_reported(prediction: str, reference: str, remark: str) -> None:
    drawn, expected, text = draw_difference(prediction, reference)
    assert bool(drawn) == (prediction != "C1CC")
    assert expected.startswith("data:image/png;base64,")
    assert text == remark
    assert (drawn == expected) == (prediction == reference)


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("C/C=C/C", "C/C=C\\C"),
        ("CC(=O)/C=C/c1ccccc1", "CC(=O)/C=C(\\Cl)c1ccccc1"),
        ("O/N=C/c1ccccc1", "O/N=C\\c1ccccc1"),
        ("C1CCC2CCCCC2C1", "C1CC2CCC1CC2"),  # other rings, which the reference's coordinates would tear
        ("CC(C)(C)OC1CCCCCCC1", "CC(C)(C)OC1CC2CCC1CC2"),
    ],
)
def test_a_drawing_shows_what_was_read(prediction: str, reference: str) -> None:
    read, wanted = Chem.MolFromSmiles(prediction), Chem.MolFromSmiles(reference)
    found = rdFMCS.FindMCS([read, wanted])
    common = Chem.MolFromSmarts(found.smartsString)
    rdDepictor.Compute2DCoords(wanted)
    pairs = list(zip(wanted.GetSubstructMatch(common), read.GetSubstructMatch(common), strict=True))
    place_alike(read, wanted, pairs)
    assert Chem.MolToSmiles(Chem.MolFromMolBlock(Chem.MolToMolBlock(read))) == Chem.MolToSmiles(read)
    positions = read.GetConformer().GetPositions()
    for bond in read.GetBonds():
        assert 1.0 <= math.dist(positions[bond.GetBeginAtomIdx()], positions[bond.GetEndAtomIdx()]) <= 2.3


def test_an_atom_that_differs_is_orange() -> None:
    import base64
    import io

    import numpy as np
    from PIL import Image

    def orange(address: str) -> int:
        with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        return int(((abs(pixels - [255, 158, 64])).max(axis=2) < 12).sum())

    drawn, expected, _ = draw_difference("OC1CCCCC1", "SC1CCCCC1")
    assert orange(drawn) > 50
    assert orange(expected) > 50
    same, _, _ = draw_difference("OC1CCCCC1", "C1CCCCC1O")
    assert orange(same) == 0


def test_costs_add_up_the_jobs_of_a_stage(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/a.tsv").write_text(TSV + "60\t0:01:00\t100\t1\t1\t1\t0\t5\t90\t54\n")
    (tmp_path / "train/b.tsv").write_text(TSV + "120\t0:02:00\t300\t1\t1\t1\t0\t7\t90\t108\n")
    (tmp_path / "filter").mkdir()
    (tmp_path / "filter/a.tsv").write_text(TSV + "0.2\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n")  # too short to see
    (tmp_path / "filter/cut.tsv").write_text("s\th")
    (tmp_path / "report.tsv").write_text(TSV + "6\t0:00:06\t80\t1\t1\t1\t0\t0\t90\t5\n")
    found = costs(tmp_path, {"train": 360.0}).set_index("stage")
    assert list(found.index) == ["filter", "train", "report"]
    train = found.loc["train"]
    assert (train["jobs"], train["minutes"], train["longest_minutes"], train["memory_mb"]) == (2, 3.0, 2.0, 300)
    assert (train["core_hours"], train["gpu_hours"], train["written_mb"]) == (162 / 3600, 0.1, 12)
    assert found.loc["filter", "jobs"] == 1
    assert math.isnan(found.loc["filter", "core_hours"])
    assert costs(tmp_path / "nowhere").empty


def test_every_stage_of_the_workflow_has_its_place_among_the_costs() -> None:
    from ocsrflow.report.costs import ORDER

    text = "".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    benchmarked = {
        line.split("<benchmarks>/")[1].split("/")[0].split(".")[0]
        for line in text.splitlines()
        if "<benchmarks>/" in line
    }
    assert benchmarked - {"record"} == set(ORDER)  # it is recorded after the report


def test_captions_tell_what_a_figure_is_of() -> None:
    assert caption_of("agreement.three.held-out").title == "Agreement of the members: three on held-out"
    assert caption_of("loss") == CAPTIONS["loss"]


def test_figures_are_escaped_and_replace_those_of_before(tmp_path: Path) -> None:
    rows = pd.DataFrame({"length": [1, 2], "count": [3, 4]})
    drawing = figures.lengths({"<script>alert(1)</script>": rows}, "A & <b>", 'a "caption" <script>')
    assert "<script" not in drawing.svg
    assert 'aria-label="A &amp; &lt;b&gt;. ' in drawing.svg or "aria-label='A &amp; &lt;b&gt;. " in drawing.svg
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/old.svg").write_text("old")
    figures.save({"new": drawing}, tmp_path / "figures")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["new.csv", "new.svg"]
    assert pd.read_csv(tmp_path / "figures/new.csv")["count"].tolist() == [3, 4]


def scores_of(test_set: str, name: str, kind: str, tanimoto: float, **more: object) -> dict[str, object]:
    value = {"value": tanimoto, "low": tanimoto - 0.1, "high": tanimoto + 0.1}
    facts = {"test_set": test_set, "name": name, "kind": kind, "images": 20}
    return facts | {"scores": {"tanimoto": value, "exact": value}} | more


def test_robustness_compares_models_pair_rules_and_programs() -> None:
    scored = [
        scores_of("held-out", "b", "model", 0.8),
        scores_of("held-out", "a", "model", 0.7),
        scores_of("held-out", "both", "ensemble", 0.85, method="pairs"),
        scores_of("held-out", "both.votes", "ensemble", 0.86, method="votes"),
        scores_of("held-out", "both.oracle", "ceiling", 0.9, method="oracle"),
        scores_of("held-out", "constant", "baseline", 0.2, answer="CC"),
        scores_of("held-out", "osra", "baseline", 0.3, version="2.1"),
        scores_of("other", "a", "model", 0.1),
        scores_of("bold", "b", "model", 0.6),
        scores_of("bold", "a", "model", 0.5),
        {"test_set": "bold", "name": "osra", "kind": "baseline", "images": 0, "missing": "osra is not installed"},
    ]
    columns = _robust(["held-out", "bold"], scored)
    assert [(c["name"], c["pictures"], list(c["readers"])) for c in columns] == [
        ("held-out", 20, ["b", "a", "both", "osra"]),
        ("bold", 20, ["b", "a"]),
    ]
    (drawing,) = robustness_figure(columns).values()
    assert drawing.title == "Robustness"
    table = drawing.table.set_index(["reader", "test_set"])
    assert table.loc[("a", "bold"), ["tanimoto", "exact_low", "exact_high"]].tolist() == pytest.approx([0.5, 0.4, 0.6])
    # In the order of the configuration: test sets from top to bottom, readers from left to right.
    shown = [
        text
        for text in re.findall(r">([^<>]+)</text>", drawing.svg)
        if text in ("a", "b", "both", "osra", "bold", "held-out")
    ]
    assert shown == ["b", "a", "both", "osra", "held-out", "bold"]
    assert robustness_figure(_robust([], scored)) == {}


def test_attention_is_shown_for_long_right_answers_and_a_wrong_one() -> None:
    rows = pd.DataFrame(
        {
            "cid": [1, 2, 3, 4, 5, 6],
            "prediction": ["CC", "CCC", "CCCC", "C" * 90, "CO", "?"],
            "exact": [True, True, True, True, False, False],
            "tanimoto": [1, 1, 1, 1, 0.4, 0.0],
        }
    )
    assert choose_answers(rows, 3)["cid"].tolist() == [3, 2, 5]
    assert choose_answers(rows, 1)["cid"].tolist() == [5]
    assert choose_answers(rows, 0).empty
    assert choose_answers(rows[rows["exact"]], 2)["cid"].tolist() == [3, 2]


def small_config(results: Path) -> Config:
    return load(yaml.safe_load((REPOSITORY / "config.yaml").read_text()) | {"results": str(results)})


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_run_writes_down_its_configuration_and_commit(tmp_path: Path) -> None:
    checkout, config = tmp_path / "checkout", small_config(tmp_path / "results")
    (checkout / "workflow").mkdir(parents=True)
    (checkout / "Snakefile").write_text("one\n")
    git(checkout, "init", "-q")
    git(checkout, "remote", "add", "origin", "https://me:secret@example.org:8443/ocsrflow.git")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    provenance.begin(config, checkout)
    found = reproduction.read_run(tmp_path / "results")
    assert load(found["config"]) == config
    assert found["commit"] == found["version"] == git(checkout, "rev-parse", "HEAD").strip()
    assert found["repository"] == "https://example.org:8443/ocsrflow.git"
    assert "secret" not in json.dumps(found)
    # What is not committed is told, and makes another version.
    (checkout / "Snakefile").write_text("two\n")
    (checkout / "workflow/new.py").write_text("")
    provenance.begin(config, checkout)
    found = reproduction.read_run(tmp_path / "results")
    assert "+two" in found["patch"]
    assert list(found["not_in_git"]) == ["workflow/new.py"]
    assert found["version"].startswith(found["commit"] + "+")
    (checkout / "workflow/new.py").write_text("another")
    provenance.begin(config, checkout)
    assert reproduction.read_run(tmp_path / "results")["version"] != found["version"]


def test_a_run_outside_of_git_has_no_commit(tmp_path: Path) -> None:
    provenance.begin(small_config(tmp_path / "results"), tmp_path)
    assert reproduction.read_run(tmp_path / "results")["version"] == ""
    assert reproduction.read_run(tmp_path / "elsewhere") == {}


def test_files_that_lie_in_somebody_elses_repository_have_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "other.txt").write_text("other")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/Snakefile").write_text("one")
    provenance.begin(small_config(tmp_path / "results"), tmp_path / "copy")
    found = reproduction.read_run(tmp_path / "results")
    assert (found["commit"], found["version"], found["patch"]) == ("", "", "")


def test_the_machine_is_reported_without_its_name() -> None:
    import platform

    text = reproduction.machine()
    assert "GiB of memory" in text
    assert platform.node() not in text
