"""The workflow itself: the toy experiment run once, and what would run again after every kind of change.

The dry run's job list is read from its messages, one line a job.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import h5py
import pandas as pd
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from ocsrflow.runtime.files import HASHES
from support.checkout import CHECK_HASHES, CONFIG, copy_checkout, snakemake
from support.pages import Page
from support.plans import OF_A_BENCHMARK, OF_A_DRAWING, edit, planned, with_followers
from support.processes import program
from support.toy import copy_toy


@pytest.fixture
def changed(toy: Path) -> Iterator[Path]:
    """The same, put back as it was after the test."""
    files = [*(toy / "tests/workflow").rglob("*.*"), *(toy / "workflow/ocsrflow").rglob("*.*")]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    yield toy
    for path, (data, date) in before.items():
        if path.read_bytes() != data:
            path.write_bytes(data)
            os.utime(path, ns=(date, date))


def test_touched_modules_other_threads_and_cores_run_nothing(toy: Path) -> None:
    for path in (toy / "workflow").rglob("*.*"):
        path.touch()
    assert planned(toy, "--cores", "1", "--set-threads", "train=1", "sample=1") == (set(), set())


def test_an_edit_of_the_template_writes_the_report(changed: Path) -> None:
    path = changed / "workflow/ocsrflow/report/templates/report.html"
    path.write_text(path.read_text().replace("What came out", "What came of it"))
    assert planned(changed)[0] == OF_THE_REPORT


TEST_SETS = ["held-out", "foreign"]
DRAWING = "large"
SCORED = [*TEST_SETS, DRAWING]
READ = [*SCORED, "selection"]
OF_THE_REPORT = {"Write the report", "Record all results in MLflow"}


def of_one_model(name: str, dataset: str) -> set[str]:
    return {
        f"Train {name} on {dataset} (gpu=0, 2 threads)",
        *(f"{name} reads the pictures of {pictures}" for pictures in READ),
        *(f"Draw what {name} read in {pictures} and compare" for pictures in READ),
        f"Learn on validation pictures how far {name} is to be trusted",
        *(f"Score {name} on {test_set}" for test_set in SCORED),
        f"Draw where {name} looked",
        *OF_THE_REPORT,
    }


OF_THE_ENSEMBLE = {
    "Choose the members of ensemble both by their validation scores",
    *(f"The models of ensemble both score each other's candidates on {name}" for name in READ),
    *(f"The models of ensemble both vote on {name}" for name in READ),
    *(f"Learn on validation pictures how far {voted} is to be trusted" for voted in ("both", "both.redrawn")),
    *(f"Score {voted} on {name}" for voted in ("both", "both.redrawn", "both.oracle") for name in TEST_SETS),
    f"Score both on {DRAWING}",
    "Measure how fast the models of ensemble both read side by side",
}
TRAINING_SPEED = "Measure the training speed of shuffle (gpu=0, 2 threads)"


def test_a_models_learning_rate_runs_that_model_and_its_ensembles(changed: Path) -> None:
    config = yaml.safe_load((changed / CONFIG).read_text())
    config["models"][0]["training"] = {"encoder_lr": 5e-4}
    edit(changed, models=config["models"])
    # Its training speed has been measured, which does not depend on the learning rate.
    assert planned(changed)[0] == of_one_model("shuffle", "short") | OF_THE_ENSEMBLE


def test_another_number_of_processes_measures_the_speed_of_the_training(changed: Path) -> None:
    edit(changed, speed={"training": ["shuffle"], "processes": [2], "steps": 2})
    assert planned(changed)[0] == {TRAINING_SPEED, *OF_THE_REPORT}
    title = {"title": "Another", "note": "", "gallery": 4}
    edit(changed, speed={"training": [], "ensembles": []}, report=title)
    assert planned(changed)[0] == OF_THE_REPORT


def test_a_new_model_runs_that_model_alone(changed: Path) -> None:
    config = yaml.safe_load((changed / CONFIG).read_text())
    new = {"name": "third", "dataset": "short", "gpus": 0, "network": {"encoder": "resnet18"}}
    edit(changed, models=[*config["models"], new])
    assert planned(changed)[0] == of_one_model("third", "short")


def test_a_new_seed_of_a_data_set_runs_what_is_made_of_it(changed: Path) -> None:
    config = yaml.safe_load((changed / CONFIG).read_text())
    config["datasets"][1]["seed"] = 77
    edit(changed, datasets=config["datasets"])
    assert planned(changed)[0] == of_one_model("mobile", "longer") | OF_THE_ENSEMBLE | {
        "Sample the molecules of data set longer",
        "Draw shard 0 of 1 of data set longer",
        "Pack the pictures and tokens of data set longer",
        "Show what is in data set longer",
        "Show what is in data set short",
    }


def test_other_splits_draw_no_picture_again(toy: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(toy, tmp_path / "copy", symlinks=True)

    def pictures() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "results/corpus/nci/pictures").rglob("*.h5")}

    before = pictures()
    config = edit(folder, split={"validation": 0.2, "test": 0.15, "seed": 3})
    # A further data set of the same source, too: only what it has beyond the others is drawn.
    new = {"name": "third", "source": "nci", "max_length": 14, "per_length": 22, "size": 130, "seed": 1, "shards": 1}
    edit(folder, datasets=[*config["datasets"], new])
    snakemake(folder, "--cores", "2", "--configfile", CONFIG, "--", "datasets")
    assert {path: date for path, date in pictures().items() if path in before} == before
    added = sum(len(h5py.File(path)["cid"]) for path in pictures() if path not in before)
    assert 0 < added < 40


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"training": {"encoder_lr": 2.0e-3}}, {"train"}),
        ({"prediction": {"beams": 3}}, {"predict"}),
        ({"split": {"validation": 0.1, "test": 0.1, "seed": 5}}, {"sample"}),
        ({"depiction": {"palette": "colour"}}, {"render", "benchmark_set"}),
    ],
    ids=["training", "reading", "sampling", "depiction"],
)
def test_what_snakemake_forgot_is_known_from_the_results(
    toy: Path, tmp_path: Path, change: dict[str, dict[str, object]], first: set[str]
) -> None:
    folder = copy_toy(toy, tmp_path / "toy")
    shutil.rmtree(folder / ".snakemake/metadata")
    before = edit(folder)
    edit(folder, **{key: before[key] | values for key, values in change.items()})
    # Another test touches the templates, and without records their dates count.
    of_templates = {"browse", "report", "record"}
    assert first | {"score", "report"} <= planned(folder)[1] <= with_followers(first) | of_templates
    edit(folder, **before)
    assert planned(folder)[1] <= of_templates


def test_another_picture_of_a_benchmark_brings_it_into_shape_again(changed: Path) -> None:
    folder = changed / "tests/workflow/foreign"
    (folder / "ethanol.png").write_bytes((folder / "proline.tif").read_bytes())
    assert planned(changed)[1] == OF_A_BENCHMARK


def test_a_benchmark_that_is_not_there_is_reported(changed: Path) -> None:
    edit(changed, benchmarks=[{"name": "more", "images": "nowhere", "references": "tests/workflow/foreign.csv"}])
    run = snakemake(changed, "-n", "--cores", "2", "--configfile", CONFIG, check=False)
    assert run.returncode != 0
    assert "benchmarks.0.images: no such file or folder: nowhere" in run.stdout + run.stderr


def test_another_store_of_mlflow_trains_nothing_again(changed: Path) -> None:
    edit(changed, tracking={"experiment": "another"})
    assert planned(changed)[1] == {"tracking", "report", "record"}


def test_another_order_of_the_members_votes_again(changed: Path) -> None:
    edit(changed, ensembles=[{"name": "both", "models": ["mobile", "shuffle"]}])
    assert planned(changed)[0] == OF_THE_ENSEMBLE | OF_THE_REPORT


def test_another_way_of_drawing_samples_no_molecules_again(changed: Path) -> None:
    edit(changed, depiction={"size": 80, "palette": "black_and_white"})
    assert planned(changed)[1] == with_followers({"render", "benchmark_set"})


def test_every_output_has_its_sha256_written_down(toy: Path) -> None:
    results = toy / "results"
    summary = snakemake(toy, "--summary", "--cores", "2", "--configfile", CONFIG).stdout.splitlines()
    outputs = [toy / line.split("\t")[0] for line in summary[1:] if line.startswith("results/")]
    files = [path for output in outputs for path in ([output] if output.is_file() else output.rglob("[!.]*.*"))]
    assert len(files) > 80
    assert [path for path in files if not (results / HASHES / f"{path.relative_to(results)}.sha256").is_file()] == []
    subprocess.run(["bash", "-c", CHECK_HASHES], cwd=results, check=True)


@pytest.mark.parametrize(("test_set", "images"), [("held-out", 10), ("foreign", 4)])
def test_the_results_are_all_there(toy: Path, test_set: str, images: int) -> None:
    results = toy / "results"
    for reader in ("shuffle", "mobile", "both", "both.redrawn", "both.oracle", "constant"):
        scores = json.loads((results / f"scores/{test_set}/{reader}.json").read_text())
        assert scores["images"] == images
        assert set(scores["scores"]) == {
            "tanimoto",
            "exact",
            "exact_no_cis_trans",
            "exact_no_stereo",
            "exact_inchi",
            "validity",
            "perfect",
        }
    osra = json.loads((results / f"scores/{test_set}/osra.json").read_text())
    assert osra["images"] == images if shutil.which("osra") else osra["missing"].startswith("osra is not installed")


def test_the_same_molecules_are_read_in_another_drawing(toy: Path) -> None:
    results = toy / "results"
    with h5py.File(results / f"datasets/{DRAWING}/images.h5") as file:
        drawn = file["cid"][:].tolist()
    with zipfile.ZipFile(results / f"datasets/{DRAWING}/originals.zip") as archive:
        assert archive.namelist() == [f"{cid}.png" for cid in drawn]
    for reader in ("shuffle", "both"):
        held_out, large = (
            pd.read_parquet(results / f"scores/{name}/{reader}.parquet") for name in ("held-out", DRAWING)
        )
        assert large["cid"].tolist() == drawn == held_out["cid"].tolist()[:6]
        assert large["reference"].tolist() == held_out["reference"].tolist()[:6]
    assert not (results / f"scores/{DRAWING}/constant.json").exists()
    scores = json.loads((results / f"scores/{DRAWING}/mobile.json").read_text())["scores"]
    rows = pd.read_csv(results / "report/figures/robustness.csv").set_index(["reader", "test_set"])
    assert rows.loc[("mobile", DRAWING), "tanimoto"] == pytest.approx(scores["tanimoto"]["value"])
    assert rows.loc[("mobile", DRAWING), "exact_high"] == pytest.approx(scores["exact"]["high"])
    of_the_model = runs_of(toy)["mobile"].data.metrics
    assert of_the_model[f"drawing.{DRAWING}.tanimoto"] == pytest.approx(scores["tanimoto"]["value"])
    assert f"Test set {DRAWING}" not in (results / "report/index.html").read_text()  # in the table of robustness alone


def test_another_style_draws_and_reads_that_drawing_alone(changed: Path) -> None:
    edit(changed, drawings=[{"name": DRAWING, "style": {"size": 500}}])
    jobs, rules = planned(changed)
    assert rules == OF_A_DRAWING
    others = [job for job in jobs if any(test_set in job for test_set in TEST_SETS)]
    assert others == [f"Draw the molecules of held-out in the style {DRAWING}"]


def test_members_are_chosen_speeds_measured_and_votes_are_answers_of_members(toy: Path) -> None:
    results = toy / "results"
    speed = json.loads((results / "speed/training/shuffle.json").read_text())
    assert [row.get("not_measured") for row in speed["rows"]] == [None, None, "a step has only 32 pictures"]
    assert json.loads((results / "speed/prediction/both.json").read_text())["same_texts"]
    constant = json.loads((results / "scores/held-out/constant.json").read_text())
    assert constant["scores"]["tanimoto"]["value"] > 0
    choice = json.loads((results / "ensembles/both.json").read_text())
    assert choice["members"] == ["shuffle", "mobile"]
    members = [pd.read_parquet(results / f"predictions/held-out/{m}.parquet") for m in ("shuffle", "mobile")]
    for voted in ("both", "both.oracle"):
        votes = pd.read_parquet(results / f"predictions/held-out/{voted}.parquet")
        assert len(votes) == 10
        for at, vote in votes.iterrows():
            assert vote["prediction"] in {member["prediction"][at] for member in members}
    for reader in ("shuffle", "both.redrawn"):
        answers = pd.read_parquet(results / f"scores/held-out/{reader}.parquet")
        assert answers["confidence"].between(0, 1).all()


def runs_of(toy: Path) -> dict[str, Run]:
    """All runs of the toy experiment by their names."""
    client = MlflowClient(f"sqlite:///{toy}/results/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    default = client.get_experiment_by_name("Default")
    assert default is None or not client.search_runs([default.experiment_id])
    found = client.search_runs([experiment.experiment_id])
    runs = {str(run.info.run_name): run for run in found}
    assert len(runs) == len(found)
    return runs


READ_BY = ["shuffle", "mobile", "both", "both.redrawn", "both.oracle", "constant", "osra"]


def test_mlflow_has_a_run_for_everything_below_one_parent(toy: Path) -> None:
    runs = runs_of(toy)
    (parent,) = [run for run in runs.values() if run.data.tags["ocsrflow.kind"] == "workflow"]
    about = json.loads((toy / "results/workflow.json").read_text())
    assert parent.info.run_name == f"workflow {about['config_hash'][:6]} at no commit"  # the copy is no checkout
    speeds = {"training speed of shuffle", "prediction speed of both"}
    scored = {f"{reader} on {test_set}" for reader in READ_BY for test_set in TEST_SETS}
    scored |= {f"{reader} on {DRAWING}" for reader in ("shuffle", "mobile", "both", "osra")}
    assert set(runs) == {str(parent.info.run_name), "shuffle", "mobile", *scored, *speeds}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags["ocsrflow.config"] == about["config_hash"]
        if run is not parent:
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id, name
            assert run.data.tags["snakemake.rule"]
    kinds = {name.removesuffix(" on held-out"): run.data.tags["ocsrflow.kind"] for name, run in runs.items()}
    assert kinds["shuffle on foreign"] == kinds["mobile on foreign"] == "prediction"
    assert (kinds["both"], kinds["both.oracle"], kinds["constant"]) == ("ensemble", "ceiling", "baseline")


def test_mlflow_has_parameters_curves_scores_data_sets_and_files(toy: Path) -> None:
    runs = runs_of(toy)
    client = MlflowClient(f"sqlite:///{toy}/results/mlflow.db")
    for name, dataset in (("shuffle", "short"), ("mobile", "longer")):
        with h5py.File(toy / f"results/datasets/{dataset}/images.h5") as file:
            digest = file.attrs["digest"]
        run = runs[name]
        assert run.data.params["training.batch"] == "32"
        assert {"loss", "validation_tanimoto", "best_validation_tanimoto"} <= set(run.data.metrics)
        assert run.data.tags[f"data.{dataset}"] == digest
        found = {(d.dataset.name, d.dataset.digest): d.tags[0].value for d in run.inputs.dataset_inputs}
        assert found == {(f"{dataset}.train", digest): "training", (f"{dataset}.validation", digest): "validation"}
    scores = json.loads((toy / "results/scores/held-out/both.json").read_text())
    both = runs["both on held-out"]
    assert both.data.params["members"] == "shuffle, mobile"
    for end in ("", "_low", "_high"):
        assert both.data.metrics[f"tanimoto{end}"] == scores["scores"]["tanimoto"][end[1:] or "value"]
    assert both.data.metrics["seconds_per_image"] == scores["seconds_per_image"]
    kept = {
        file.path for folder in ("scores", "predictions") for file in client.list_artifacts(both.info.run_id, folder)
    }
    assert kept == {"scores/both.json", "scores/both.parquet", "predictions/both.parquet"}
    (parent,) = [run for run in runs.values() if run.data.tags["ocsrflow.kind"] == "workflow"]
    figures = {file.path for file in client.list_artifacts(parent.info.run_id, "figures")}
    assert {"figures/validation.svg", "figures/by-length.csv", "figures/agreement.both.held-out.svg"} <= figures
    ids = json.loads((toy / "results/runs.json").read_text())
    assert ids["scores/held-out/both"] == both.info.run_id
    assert set(ids.values()) == {run.info.run_id for run in runs.values()}


def test_a_model_of_the_registry_reads_as_the_stage_did(toy: Path) -> None:
    import mlflow
    from ocsrflow.pictures.packed_file import Packed
    from PIL import Image

    mlflow.set_tracking_uri(f"sqlite:///{toy}/results/mlflow.db")
    (version,) = MlflowClient().search_model_versions("name = 'toy.shuffle'")
    model = mlflow.pyfunc.load_model(f"models:/toy.shuffle/{version.version}")
    packed = Packed(toy / "results/datasets/short/images.h5")
    expected = pd.read_parquet(toy / "results/predictions/held-out/shuffle.parquet").head(4)
    files = []
    for at in packed.positions(expected["cid"]):
        data = io.BytesIO()
        Image.fromarray(packed.picture(at).squeeze(2)).save(data, "PNG")
        files.append(data.getvalue())
    found = model.predict(pd.DataFrame({"picture": [*files, b"no picture"]}))
    assert found["smiles"].tolist() == [*expected["prediction"], ""]
    assert found["error"][4].startswith("not a picture")
    assert found["confidence"].between(0, 1).all()
    metrics = {metric.key for metric in mlflow.get_logged_model(str(version.source).removeprefix("models:/")).metrics}
    assert {"tanimoto", "exact", "seconds_per_image"} <= metrics  # its scores stand with the model


def test_recording_again_makes_no_run_and_another_model_one_that_names_the_one_before(
    toy: Path, tmp_path: Path
) -> None:
    changed = copy_toy(toy, tmp_path / "toy")  # of its own: MLflow keeps the store open
    before = {run.info.run_id: run for run in runs_of(changed).values()}
    results = changed / "results"
    inside = {"cwd": changed, "check": True, "env": {**os.environ, "PYTHONPATH": str(changed / "workflow")}}
    record = [sys.executable, "-m", "ocsrflow", "record", "results"]
    again = subprocess.run(record, **inside, capture_output=True, text=True).stdout
    assert f"MLflow has {len(before)} results, 0 of them are new or have changed" in again
    subprocess.run([*record, "--everything"], **inside)
    after = {run.info.run_id: run for run in runs_of(changed).values()}
    assert set(after) == set(before)
    for run_id, run in after.items():
        assert run.data.metrics == before[run_id].data.metrics
        assert run.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{changed}/results/mlflow.db")
    shuffle = next(run for run in after.values() if run.info.run_name == "shuffle")
    steps = [point.step for point in client.get_metric_history(shuffle.info.run_id, "loss")]
    assert steps == sorted(set(steps))
    assert len(client.search_model_versions("name = 'toy.shuffle'")) == 1
    # The same model trained in another way, and a configuration of its own.
    path = results / "models/shuffle/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0123456789ab"}))
    about = results / "workflow.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"config_hash": "ba9876543210"}))
    output = subprocess.run(record, **inside, capture_output=True, text=True).stdout
    assert f"MLflow has {len(before)} results, 2 of them are new or have changed" in output  # the report too
    client = MlflowClient(f"sqlite:///{changed}/results/mlflow.db")
    new = client.get_run(json.loads((results / "runs.json").read_text())["models/shuffle"])
    assert new.info.run_id not in before
    assert new.data.tags["ocsrflow.previous"] == shuffle.info.run_id
    assert shuffle.info.run_id in new.data.tags["mlflow.note.content"]
    parent = client.get_run(new.data.tags["mlflow.parentRunId"])
    assert parent.info.run_id not in before
    assert parent.data.tags["ocsrflow.previous"] == shuffle.data.tags["mlflow.parentRunId"]
    assert {int(v.version) for v in client.search_model_versions("name = 'toy.shuffle'")} == {1, 2}


HEADINGS = [
    *(
        "What came out",
        "What was done",
        "Beside the talk",
        "Models",
        "Single against ensemble",
        "Robustness",
        "Training",
        "Molecules",
    ),
    *("How far to trust an answer", "What is read well", "Speed: one after the other and side by side", "Gallery"),
    *("Where a model looks", "Rejects", "Run time and cost", "How to do it again"),
]


def test_the_report_is_one_file_with_every_section(toy: Path) -> None:
    page = Page(toy / "results/report/index.html")
    html = page.html
    assert page.fetched() == []
    assert page.all("script") == []
    assert all(image["alt"] for image in page.all("img"))
    assert "Toy <script>alert(1)</script>" in page.text
    for heading in HEADINGS:
        assert f"<h2>{heading}</h2>" in html
    targets = re.findall(r'<a href="#([^"]*)"', html)
    assert len(targets) >= len(HEADINGS) - 2
    for target in targets:
        assert f'<section id="{target}"' in html
    assert "not measured: a step has only 32 pictures" in page.text
    assert "All 2, side by side" in page.text
    assert html.count("<svg") == len(list((toy / "results/report/figures").glob("*.svg"))) >= 14
    assert html.count('<article class="card') == 4
    assert "Best constant answer" in page.text
    scores = json.loads((toy / "results/scores/held-out/constant.json").read_text())
    assert f"{scores['scores']['tanimoto']['value']:.4f}" in page.text
    for stage in ("train", "predict", "score"):
        assert re.search(rf'<th scope="row">{stage}</th><td class="n">\d', html)


def test_the_reports_configuration_makes_the_same_experiment(toy: Path) -> None:
    html = (toy / "results/report/index.html").read_text()
    found = re.search(r'href="data:text/plain;charset=utf-8;base64,([^"]+)" download="experiment.yaml"', html)
    assert found is not None
    (toy / "again.yaml").write_bytes(base64.b64decode(found[1]))
    text = snakemake(toy, "-n", "--cores", "2", "--configfile", "again.yaml").stdout
    assert "Nothing to be done" in text


def test_every_figure_has_its_data_beside_it(toy: Path) -> None:
    folder = toy / "results/report/figures"
    drawn = sorted(path.stem for path in folder.glob("*.svg"))
    assert len(drawn) >= 14
    assert drawn == sorted(path.stem for path in folder.glob("*.csv"))
    for path in folder.glob("*.svg"):
        root = ElementTree.fromstring(path.read_text())
        assert root.get("role") == "img"
        assert root.find("{http://www.w3.org/2000/svg}desc") is not None
    lengths = pd.read_csv(folder / "lengths-sampled.csv")
    assert lengths.groupby("name")["count"].sum().to_dict() == {"short": 120, "longer": 120}
    methods = pd.read_csv(folder / "methods.csv").set_index("name")
    scores = json.loads((toy / "results/scores/held-out/both.json").read_text())
    assert methods["value"]["both"] == pytest.approx(scores["scores"]["tanimoto"]["value"])


def test_snakemakes_own_report_has_the_figures_with_captions(toy: Path) -> None:
    snakemake(toy, "--configfile", CONFIG, "--report", "report.zip")
    with zipfile.ZipFile(toy / "report.zip") as archive:
        names = archive.namelist()
        text = "".join(archive.read(name).decode() for name in names if name.endswith((".html", ".js")))
    assert any(name.endswith("index.html") for name in names)
    for output in ("Readers compared", "Agreement of the members: both on held-out", "Run time of each stage"):
        assert output in text
    assert "bootstrap interval" in text  # of a caption


def test_the_full_experiment_is_planned(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    text = snakemake(folder, "-n", "--cores", "all", "--resources", "gpu=4").stdout
    trainings = re.findall(r"^Job \d+: Train (\S+) on (\S+) \(gpu=(\d)", text, flags=re.MULTILINE)
    assert len(trainings) == 6
    assert all(int(gpus) >= 1 for _, _, gpus in trainings)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", text, flags=re.MULTILINE))
    assert (counts["render"], counts["pack"], counts["weights"], counts["predict"]) == ("36", "3", "4", "18")
    assert (counts["speed_training"], counts["speed_prediction"]) == ("2", "2")
    assert "Measure the training speed of resnet152-512-contest (gpu=4, " in text


def test_make_demo_runs_the_demonstration(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    program(folder / ".venv/bin/snakemake", f'exec {sys.executable} -m snakemake -n "$@"')  # a plan of it is enough
    command = ["make", "-o", ".venv/.ready", "demo"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    text = run.stdout
    assert len(re.findall(r"^Job \d+: Train \S+ on \S+ \(gpu=0", text, flags=re.MULTILINE)) == 5
    assert "Bring the molecules of nci here" in text
    assert "ImageNet" not in text
    # The full experiment's results are others.
    assert set(re.findall(r"\b(results(?:/demo)?)/(?!demo|reference)", text)) == {"results/demo"}


@pytest.mark.parametrize(("profile", "trainings"), [("reference", 3), ("workstation", 6), ("h200", 3), ("slurm", 6)])
def test_every_profile_is_planned(tmp_path: Path, profile: str, trainings: int) -> None:
    folder = copy_checkout(tmp_path)
    text = snakemake(folder, "-n", "--workflow-profile", f"workflow/profiles/{profile}", "--cores", "2").stdout
    assert len(re.findall(r"^Job \d+: Train \S+ on \S+ \(gpu=", text, flags=re.MULTILINE)) == trainings


def test_a_wrong_configuration_stops_before_any_job(tmp_path: Path) -> None:
    folder = copy_checkout(tmp_path)
    edit(folder, prediction={"bach": 3})
    run = snakemake(folder, "--cores", "2", "--configfile", CONFIG, check=False)
    assert run.returncode != 0
    assert "prediction.bach: unknown key" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert not (folder / "results/corpus").exists()


def test_local_files_and_supplied_pictures_run_through_the_same_rules(tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    folder = copy_checkout(tmp_path)
    (folder / "in").mkdir()
    rows = []
    for n in range(1, 41):
        picture = Image.new("RGB", (40 + n, 50), "white")
        ImageDraw.Draw(picture).line((5, 5, 35, 45), fill=(n, n, n), width=2)
        picture.save(folder / f"in/{n} of 40.png")
        rows.append(f"{n} of 40.png,{'C' * (n % 9 + 1)}{'O' * (n % 4)}N")
    (folder / "in/train.csv").write_text("file_name,SMILES\n" + "\n".join(rows) + "\n")
    (folder / "in/mine.txt").write_text("".join(f"{n}\t{'C' * (n % 10 + 1)}{'N' * (n // 10)}F\n" for n in range(60)))
    toy = yaml.safe_load((folder / CONFIG).read_text())
    edit(
        folder,
        sources=[
            {"name": "mine", "kind": "file", "path": "in/mine.txt", "max_length": 18},
            {"name": "given", "kind": "pictures", "csv": "in/train.csv", "pictures": "in", "max_length": 18},
        ],
        datasets=[{"name": "short", "source": "mine"}, {"name": "longer", "source": "given", "shards": 2}],
        split={"validation": 0.2, "test": 0.2, "seed": 1},
        models=toy["models"],
    )
    snakemake(folder, "--cores", "2", "--configfile", CONFIG, "--", "datasets")
    for name in ("short", "longer"):
        assert (folder / f"results/datasets/{name}/images.h5").exists()
    # A source that changes under a finished run is read again, also where its date is an older one.
    source = folder / "in/mine.txt"
    source.write_text(source.read_text() + "1000\tCCCCCCO\n")
    os.utime(source, (10**9, 10**9))
    run = snakemake(folder, "--cores", "2", "--configfile", CONFIG, "--", "datasets")
    log = (folder / "results/logs/filter/mine.log").read_text()
    assert "in/mine.txt: the source has changed since" in log
    assert "60 lines then, 61 now" in log
    assert planned(folder, "--", "datasets") == (set(), set())
    os.remove(folder / "in/7 of 40.png")
    (folder / "in/train.csv").touch()
    run = snakemake(
        folder, "--cores", "2", "--configfile", CONFIG, "--forcerun", "filter", "--", "datasets", check=False
    )
    assert run.returncode != 0
    assert "no picture '7 of 40.png' in in; add it or drop the row" in run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
