"""Reading with trained models: the stages predict and rescore, and the command for pictures from elsewhere."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from cyclopts import ValidationError
from ocsrflow.chem.similarity import is_valid
from ocsrflow.chem.tokenizer import END, encode, tokenize
from ocsrflow.config.reading import Reading
from ocsrflow.ensemble.calibrate import Calibration, confidence, fit
from ocsrflow.ensemble.choose import choose
from ocsrflow.ensemble.vote import vote
from ocsrflow.ensemble.voting_methods import Candidates, Decision, PoolEntry
from ocsrflow.evaluation.score import score
from ocsrflow.network.beam_search import Candidate
from ocsrflow.network.model_reader import is_complete
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.prediction.predict import predict
from ocsrflow.prediction.redraw import redraw
from ocsrflow.prediction.rescore import rescore
from ocsrflow.reader.ensemble_reader import Answer, EnsembleReader
from ocsrflow.reader.find_models import find_models
from ocsrflow.reader.output_formats import PictureAnswer, write_answers
from ocsrflow.reader.read import read
from ocsrflow.runtime.cli import command_line
from ocsrflow.runtime.errors import UserError
from ocsrflow.runtime.files import read_json, write_json
from PIL import Image
from rdkit import Chem
from safetensors.torch import load_file, save_file
from support.data import make_model
from support.processes import hear_ctrl_c
from support.waiting import PATIENCE, wait_until

CPU = torch.device("cpu")
NAMES = ("first", "second")


@pytest.fixture(scope="module")
def results(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results of two models of random weights, which read the test pictures and vote on them."""
    home = tmp_path_factory.mktemp("results")
    torch.set_num_threads(1)
    data, read, drawn = dataset / "images.h5", home / "predictions", home / "redrawn"
    folders = [make_model(dataset, home / "models" / name, seed) for seed, name in enumerate(NAMES)]
    weights = [folder / "weights.safetensors" for folder in folders]
    descriptions = [folder / "model.json" for folder in folders]
    tables, facts = ([read / f"{name}.{end}" for name in NAMES] for end in ("parquet", "json"))
    redrawn, redrawn_facts = ([drawn / f"{name}.{end}" for name in NAMES] for end in ("parquet", "json"))
    for at in range(2):
        predict(
            data, weights=weights[at], description=descriptions[at], out=tables[at], facts=facts[at],
            reading=Reading(beams=4), batch=5, timed_images=1,
        )  # fmt: skip
        redraw(data, predictions=tables[at], out=redrawn[at], facts=redrawn_facts[at])
    rescore(
        data, predictions=tables, member_facts=facts, weights=weights, descriptions=descriptions,
        out=home / "likely.parquet", facts=home / "likely.json", batch=4, timed_images=2,
    )  # fmt: skip
    choose(predictions=tables, member_facts=facts, name="both", out=home / "ensembles" / "both.json")
    vote(
        predictions=tables, member_facts=facts, name="both", folder=read, choice=home / "ensembles" / "both.json",
        methods=["pairs", "medoid", "votes", "rescored", "redrawn"], redrawn=redrawn, redrawn_facts=redrawn_facts,
        likelihoods=home / "likely.parquet", likelihood_facts=home / "likely.json",
    )  # fmt: skip
    return home


@pytest.fixture
def pictures(dataset: Path, tmp_path: Path) -> Path:
    """The test pictures as files."""
    packed, folder = Packed(dataset / "images.h5"), tmp_path / "pictures"
    folder.mkdir()
    for at in packed.members("test"):
        Image.fromarray(packed.picture(int(at)).squeeze(2)).save(folder / f"{packed.cid[at]}.png")
    return folder


def test_the_table_of_predictions_holds_together(results: Path, dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    rows = pd.read_parquet(results / "predictions/first.parquet")
    assert rows["cid"].tolist() == packed.cid[packed.members("test")].tolist()
    assert rows["id"].tolist() == rows["cid"].astype(str).tolist()
    for row in rows.itertuples():
        texts, values = list(row.candidates), row.candidate_log_probabilities.tolist()
        assert (row.prediction, row.log_probability) == (texts[0], values[0])
        assert 1 <= len(texts) == len(set(texts)) <= 4
        assert row.valid == is_valid(row.prediction)
        assert math.log(np.prod(row.token_probabilities.astype(float))) == pytest.approx(row.log_probability, abs=1e-3)
        assert len(row.token_probabilities) == len(tokenize(row.prediction)) + 1
        # The models write texts of 10 tokens at most, their end included.
        assert row.complete or len(row.token_probabilities) == 10
        assert row.complete == row.candidate_complete[0]
        ranks = [(not is_valid(text), -value) for text, value in zip(texts, values, strict=True)]
        assert ranks == sorted(ranks)  # what RDKit parses comes first, then the likelier
    assert (rows["seconds"] > 0).all()


def test_a_model_scores_its_own_candidates_as_it_did_when_it_wrote_them(results: Path) -> None:
    likely, facts = pd.read_parquet(results / "likely.parquet"), read_json(results / "likely.json")
    assert facts["members"] == list(NAMES)
    compared = 0
    for column, name in enumerate(NAMES):
        rows = pd.read_parquet(results / f"predictions/{name}.parquet")
        for own, pooled in zip(rows.itertuples(), likely.itertuples(), strict=True):
            assert own.cid == pooled.cid
            scores = {text: v[column] for text, v in zip(pooled.candidates, pooled.likelihoods, strict=True)}
            assert all(map(is_valid, scores))
            for text, value in zip(own.candidates, own.candidate_log_probabilities, strict=True):
                assert (text in scores) == is_valid(text)
                if text in scores:
                    compared += 1
                    assert scores[text] == pytest.approx(value, abs=1e-3)
    assert compared > 5


@pytest.mark.parametrize("method", ["pairs", "medoid", "votes", "rescored", "redrawn"])
def test_a_team_answers_as_the_stages_do(results: Path, dataset: Path, method: str) -> None:
    packed = Packed(dataset / "images.h5")
    reader = EnsembleReader(find_models([results]), method, Reading(beams=4), CPU)
    answers = reader.read(packed.pictures(packed.members("test").tolist()))
    assert all(answer.complete or answer.confidence == 0 for answer in answers)
    name = "both" if method == "pairs" else f"both.{method}"
    rows = pd.read_parquet(results / f"predictions/{name}.parquet")
    assert [answer.decision.text for answer in answers] == rows["prediction"].tolist()
    assert [answer.complete for answer in answers] == rows["complete"].tolist()
    for column in ("agreement", "log_probability", "distance"):
        found = [getattr(answer.decision, column) for answer in answers]
        np.testing.assert_allclose(found, rows[column], atol=1e-3)
    for answer in answers:
        values = [value for _, value in answer.candidates]
        assert values == sorted(values, reverse=True)


def test_one_model_answers_with_its_own_first_candidate(results: Path, dataset: Path) -> None:
    packed = Packed(dataset / "images.h5")
    reader = EnsembleReader(find_models([results / "models/second"]), "rescored", Reading(beams=4), CPU)
    answers = reader.read(packed.pictures(packed.members("test").tolist()))
    rows = pd.read_parquet(results / "predictions/second.parquet")
    assert [answer.decision.text for answer in answers] == rows["prediction"].tolist()
    for answer, texts in zip(answers, rows["candidates"], strict=True):
        assert [text for text, _ in answer.candidates] == list(texts)


def test_a_team_parses_and_draws_in_the_same_processes_all_its_life(results: Path, dataset: Path) -> None:
    def workers() -> set[int]:
        return {child.pid for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())}

    packed = Packed(dataset / "images.h5")
    before = workers()
    with EnsembleReader(
        find_models([results / "models/second"]), "pairs", Reading(beams=4), CPU, processes=2
    ) as reader:
        seen = []
        for at in range(3):
            assert len(reader.read(packed.pictures([at]))) == 1
            seen.append(workers() - before)
        assert len(seen[0]) == 2
        assert seen[0] == seen[1] == seen[2]
    assert workers() == before


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_that_cannot_be_read_cost_only_themselves(results: Path, pictures: Path, tmp_path: Path) -> None:
    good = sorted(path.name for path in pictures.iterdir())
    (pictures / "empty.png").touch()
    (pictures / "text.png").write_text("CCO")
    (pictures / "cut.png").write_bytes((pictures / good[0]).read_bytes()[:200])
    Image.new("L", (50, 50), 255).save(pictures / "white.png")
    Image.new("1", (20_000, 20_000), 1).save(pictures / "huge.png")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ocsrflow", "read", "--models", results, pictures, "-o", tmp_path / "o.csv"),
            *("--attention", tmp_path / "attention", "--threads", "1", "--beams", "2"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    rows = {row["id"]: row for row in read_rows(tmp_path / "o.csv")}
    assert len(rows) == len(good) + 5
    for name in ("empty.png", "text.png", "cut.png", "white.png", "huge.png"):
        assert rows[name]["error"]
        assert rows[name]["smiles"] == ""
        assert float(rows[name]["confidence"]) == 0
        assert sum(line.startswith(f"{name}: ") for line in done.stderr.splitlines()) == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ocsrflow read: error: 5 of ")
    for name in good:
        assert rows[name]["smiles"]
        assert rows[name]["error"] == ""
        assert 0 <= float(rows[name]["confidence"]) <= 1
    assert {path.name for path in (tmp_path / "attention").iterdir()} == {f"{name}.png" for name in good}


def test_json_has_more_and_sdf_has_molecules(results: Path, pictures: Path, tmp_path: Path) -> None:
    read([pictures], models=[results], out=tmp_path / "o.json", beams=3, threads=1)
    read([pictures], models=[results], out=tmp_path / "o.sdf", beams=3, threads=1)
    rows = {row["id"]: row for row in json.loads((tmp_path / "o.json").read_text())}
    for row in rows.values():
        assert set(row["members"]) == set(NAMES)
        texts = [candidate["smiles"] for candidate in row["candidates"]]
        assert row["smiles"] in texts if row["valid"] else not texts
    molecules = {m.GetProp("_Name"): m for m in Chem.SDMolSupplier(str(tmp_path / "o.sdf"))}
    assert set(molecules) == {name for name, row in rows.items() if row["valid"]}
    for name, molecule in molecules.items():
        assert molecule.GetProp("smiles") == rows[name]["smiles"]
        assert molecule.GetDoubleProp("confidence") == rows[name]["confidence"]
        assert Chem.MolToSmiles(molecule) == Chem.CanonSmiles(rows[name]["smiles"])


def never_ending(model: Path, folder: Path, end: float) -> Path:
    """A model that finds the end of a text more likely, or less, by a number of nats, and carbon likely else."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "weights.safetensors")
    for key in weights:
        if key.endswith("output.bias"):
            weights[key][END] += end
            weights[key][encode("C")[0]] += 20
    save_file(weights, folder / "weights.safetensors")
    return folder


@pytest.mark.parametrize("grammar", [True, False])
def test_answers_that_are_cut_off_are_marked(
    results: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], grammar: bool
) -> None:
    """A model that would write carbons for ever, and one that ends by itself."""
    out = tmp_path / "o.csv"
    for end, complete in ((-20.0, False), (60.0, True)):
        model = never_ending(results / "models/first", tmp_path / f"models{end}" / "one", end)
        read([pictures], models=[model], out=out, grammar=grammar, beams=1)
        for row in read_rows(out):
            assert row["complete"] == str(complete).lower()
            assert float(row["confidence"]) == 0 or complete
            assert row["valid"] == "true" or complete  # cut off, it looks like a molecule
        cut_off = "answers were cut off at the longest text" in capsys.readouterr().err
        assert cut_off is not complete


def test_a_text_of_the_greatest_length_may_have_ended_by_itself() -> None:
    sure = [0.9] * 12
    assert is_complete(Candidate([7] * 11, -1.0, sure), 12)
    assert is_complete(Candidate([7] * 11, -9.0, [*sure[:-1], 0.1]), 13)
    assert not is_complete(Candidate([7] * 11, -9.0, [*sure[:-1], 0.1]), 12)  # the end was forced
    assert not is_complete(Candidate([7] * 11, -9.0, [*sure[:-3], 0.01, 0.9, 0.9]), 12)  # a bracket was
    assert not is_complete(Candidate([7] * 12, -1.0, sure), 12)  # it has no end


def test_what_is_cut_off_has_no_confidence_and_teaches_none() -> None:
    rows = pd.DataFrame(
        {"log_probability": [-0.1, -1.0, -9.0, -0.1], "valid": True, "complete": [True, True, True, False]}
    )
    learnt = fit(rows, np.array([True, True, False, False]))
    assert learnt.coefficients == fit(rows[:3], np.array([True, True, False])).coefficients
    found = confidence(rows, learnt)
    assert found[3] == 0 < found[2] < found[0]


def test_a_score_counts_what_was_cut_off(results: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(results / "predictions/first.parquet")
    rows["complete"] = [number > 1 for number in range(len(rows))]
    rows.to_parquet(tmp_path / "p.parquet", index=False)
    facts, out = results / "predictions/first.json", tmp_path / "o.json"
    score(tmp_path / "p.parquet", facts=facts, test_set="t", out=out, images=tmp_path / "o.parquet")
    assert read_json(out)["cut_off"] == 2


def copied(results: Path, folder: Path, **changed: Any) -> Path:
    """The second model with another description."""
    shutil.copytree(results / "models/second", folder)
    write_json(folder / "model.json", read_json(folder / "model.json") | changed)
    return folder


def test_models_that_do_not_go_together_are_refused(results: Path, tmp_path: Path, pictures: Path) -> None:
    first = results / "models/first"
    about = read_json(first / "model.json")
    others = {
        "another vocabulary": {"vocabulary": [*about["vocabulary"][:-2], *about["vocabulary"][:-3:-1]]},
        "128 × 128 pixels, black and white": {"depiction": about["depiction"] | {"size": 128}},
        "does not say what pictures": {"depiction": None},
    }
    for number, (message, changed) in enumerate(others.items()):
        other = copied(results, tmp_path / str(number), **changed)
        if changed.get("depiction", 0) is None:
            facts = read_json(other / "model.json")
            facts.pop("depiction")
            write_json(other / "model.json", facts)
        with pytest.raises(UserError, match=message) as error:
            read([pictures], models=[first, other], out=tmp_path / "o.csv")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "o.csv").exists()


def test_what_models_are_meant(results: Path, tmp_path: Path) -> None:
    models = [results / "models" / name for name in NAMES]
    assert find_models(models).folders == models
    assert find_models(models).ensemble == "both"  # its very members
    assert find_models([models[0], copied(results, tmp_path / "other/models/third")]).ensemble is None
    for path in (results, results / "ensembles/both.json"):
        assert find_models([path]).folders == models
        assert find_models([path]).ensemble == "both"
    with pytest.raises(UserError, match="nowhere: no trained model"):
        find_models([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="a model twice"):
        find_models([models[0], models[0]])
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match=r"which of its models.* none is there"):
        find_models([tmp_path])
    write_json(tmp_path / "with.json", {"members": ["first", "osra"]})
    with pytest.raises(UserError, match=r"with\.json: osra is a member; give its models, .* and --with osra"):
        find_models([tmp_path / "with.json"])


def test_the_confidence_is_that_of_the_very_team_or_else_of_its_members(results: Path, tmp_path: Path) -> None:
    home = shutil.copytree(results, tmp_path / "results")
    both, second = find_models([home]), find_models([home / "models/second"])
    assert (both.together("rescored"), both.alone(), both.method()) == (None, [None, None], "rescored")
    rows = pd.DataFrame({"log_probability": [-1.0, -2.0, -9.0], "distance": [0.0, 0.1, 0.8], "valid": True})
    learnt = fit(rows, np.array([True, True, False])).to_json()
    for name in ("first", "second"):
        write_json(home / "calibration" / f"{name}.json", learnt)
    calibrations = {name: home / "calibration" / f"{name}.json" for name in ("first", "second", "both.votes")}
    assert both.alone() == [calibrations["first"], calibrations["second"]]
    assert second.together("pairs") == calibrations["second"]
    write_json(calibrations["both.votes"], learnt)
    assert (both.together("votes"), both.together("pairs")) == (calibrations["both.votes"], None)
    assert both.method() == "votes"
    # Without one of both together, each model's calibration is asked with its own log-probability.
    reader = EnsembleReader(both, "pairs", Reading(beams=2), CPU)
    decision = Decision("CCO", 0, 1.0, -3.0, 0.1)
    candidates = Candidates(("CCO", "CCN"), (-1.0, -2.0), (PoolEntry("CCO", (-1.0, -5.0), 0.1),))
    alone = pd.DataFrame({"log_probability": [-1.0, -5.0], "distance": 0.1, "valid": True})
    expected = confidence(alone, Calibration.from_json(learnt)).mean()
    assert reader._confidences([decision], [True], [candidates]) == pytest.approx([expected])


def test_an_output_that_cannot_be_written_is_reported_before_anything_is_read(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"o.xlsx: the form of the output .* \.csv, \.json, \.sdf"):
        read([tmp_path], models=[results], out=tmp_path / "o.xlsx")
    (tmp_path / "o.csv").mkdir()
    with pytest.raises(UserError, match=r"o\.csv: a folder"):
        read([tmp_path / "none"], models=[results], out=tmp_path / "o.csv")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        read([tmp_path / "none"], models=[results], out=tmp_path / "file" / "o.csv")
    assert not list(tmp_path.rglob("*.part"))


def test_names_of_any_bytes_and_length(results: Path, pictures: Path, tmp_path: Path) -> None:
    picture = next(pictures.iterdir()).read_bytes()
    odd = tmp_path / "odd"
    odd.mkdir()
    for name in (b"lat\xe9n.png", b"new\nline.png", b"a" * 250 + b".png", "苯.png".encode()):
        Path(os.fsdecode(os.fsencode(odd) + b"/" + name)).write_bytes(picture)
    for end in ("csv", "json", "sdf"):
        read([odd], models=[results], out=tmp_path / f"o.{end}", beams=2, attention=tmp_path / "maps")
    rows = read_rows(tmp_path / "o.csv")
    assert [row["id"] for row in rows] == ["a" * 250 + ".png", "lat\\xe9n.png", "new\\nline.png", "苯.png"]
    assert {row["smiles"] for row in rows} == {rows[0]["smiles"]}
    # The map of the first one would have too long a name: told, and the others are there.
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"{row['id']}.png" for row in rows[1:]}


def test_sdf_has_the_smiles_as_it_is(tmp_path: Path) -> None:
    smiles = r"C/C=C\C"
    answer = Answer(Decision(smiles, 0, 1.0, -0.5, 0.1), True, 0.75, [], {"one": smiles, "two": smiles})
    refused = Answer(Decision("C" * 10, 0, 1.0, -0.5, 0.1), False, 0.0, [], {"one": "C", "two": "C"})
    write_answers(tmp_path / "o.sdf", [PictureAnswer("a.png", answer), PictureAnswer("slow.png", refused)])
    (molecule,) = Chem.SDMolSupplier(str(tmp_path / "o.sdf"))
    numbers = {"confidence": 0.75, "log_probability": -0.5, "agreement": 1.0, "distance": 0.1}
    assert molecule.GetPropsAsDict() == {"smiles": smiles, "valid": "true", "complete": "true"} | numbers


def test_models_are_found_from_any_folder(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(results / "models")
    assert find_models([Path("first")]).folders == [results / "models/first"]
    monkeypatch.chdir(results / "models/first")
    assert find_models([Path(".")]).alone() == find_models([results / "models/first"]).alone()
    monkeypatch.chdir(results / "ensembles")
    assert find_models([Path("both.json")]).folders == find_models([results]).folders


def test_damaged_descriptions_are_reported(results: Path, tmp_path: Path) -> None:
    home = shutil.copytree(results, tmp_path / "results")
    for text, message in {
        "": "damaged, no JSON",
        "[]": "not a calibration",
        '{"features": []}': "not a calibration",
    }.items():
        (home / "calibration").mkdir(exist_ok=True)
        (home / "calibration/first.json").write_text(text)
        with pytest.raises(UserError, match=rf"calibration/first\.json: {message}"):
            EnsembleReader(find_models([home / "models/first"]), "pairs", Reading(), CPU)
    for text, message in {"{": "damaged, no JSON", '{"name": "x"}': "not the description of a trained model"}.items():
        (home / "models/second/model.json").write_text(text)
        with pytest.raises(UserError, match=message):
            EnsembleReader(find_models([home / "models/second"]), "pairs", Reading(), CPU)


def test_numbers_out_of_range_are_reported(results: Path, pictures: Path, tmp_path: Path) -> None:
    words = ["--models", str(results), str(pictures), "-o", str(tmp_path / "o.csv")]
    for option in ("--batch=0", "--beams=0", "--threads=0", "--gpus=2"):
        with pytest.raises(ValidationError, match=option.split("=")[0]):
            command_line(read, "read")([*words, option], exit_on_error=False, print_error=False)


def test_stopped_by_ctrl_c_it_leaves_what_it_has_read(results: Path, pictures: Path, tmp_path: Path) -> None:
    first = next(pictures.iterdir())
    for number in range(300):
        (pictures / f"again {number}.png").write_bytes(first.read_bytes())
    maps = tmp_path / "attention"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ocsrflow", "read", "--models", results, pictures, "-o", tmp_path / "o.csv"),
            *("--attention", maps, "--threads", "1", "--beams", "1", "--batch", "2"),
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )  # fmt: skip

    def at_work() -> bool:
        return process.poll() is not None or (maps.exists() and len(list(maps.iterdir())) >= 4)

    wait_until(at_work, "four pictures of the attention")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to its processes too
    _, message = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in message
    rows = read_rows(tmp_path / "o.csv")
    assert 3 <= len(rows) < 300
    assert f"{len(rows)} of {len(list(pictures.iterdir()))} pictures were read" in message
