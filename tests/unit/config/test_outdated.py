"""A result that says it was made with other settings is dated back, and forward again."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ocsrflow.config.experiment import Config, load
from ocsrflow.config.outdated import FIFTY_YEARS, date_back
from ocsrflow.pictures.originals import write_originals
from snakemake.utils import update_config
from support.checkout import REPOSITORY
from yaml import safe_load

MADE = 1_700_000_000 * 10**9  # nanoseconds since 1970


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = safe_load((REPOSITORY / "config.yaml").read_text())
    update_config(raw, safe_load((REPOSITORY / "tests/workflow/toy.yaml").read_text()))
    return {**raw, "results": str(tmp_path)}


def write(config: Config) -> dict[str, Path]:
    """A data set, a model and what it read, as the stages write down how they were made."""
    results, dataset, model = Path(config.results), config.datasets[0], config.models[0]
    sampling = {
        "max_length": 14,
        "per_length": 20,
        "size": 120,
        "seed": 1,
        "validation": 0.1,
        "test": 0.1,
        "split_seed": 0,
    }
    files = {
        "sampling": results / f"datasets/{dataset.name}/sample.parquet",
        "training": results / f"models/{model.name}/model.json",
        "drawing": results / f"datasets/{dataset.name}/shards/0.parquet",
        "benchmark": results / f"datasets/{config.benchmarks[0].name}/originals.zip",
        "named drawing": results / f"datasets/{config.drawings[0].name}/originals.zip",
        "reading": results / f"predictions/held-out/{model.name}.json",
        "choosing": results / f"ensembles/{config.ensembles[0].name}.json",
    }
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"cid": [1]}).replace_schema_metadata({"sample": json.dumps(sampling)}), files["sampling"])
    depiction = {"depiction": config.depiction.model_dump(mode="json")}
    made = {"made": json.dumps(depiction | {"drawings": 1})}
    pq.write_table(pa.table({"cid": [1]}).replace_schema_metadata(made), files["drawing"])
    style = {"style": config.drawings[0].style.model_dump(mode="json"), "split": "test", "size": 6}
    for name, settings in (("benchmark", depiction), ("named drawing", style)):
        with write_originals(files[name], settings):
            pass
    settings = {key: getattr(model, key).model_dump(mode="json") for key in ("network", "training")}
    files["training"].write_text(json.dumps({"dataset": model.dataset, **depiction, **settings}))
    reading = {"reading": {"beams": config.prediction.beams}, "split": "test", "size": 10}
    files["reading"].write_text(json.dumps(reading))
    ensemble = config.ensembles[0]
    chosen = {"scores": dict.fromkeys(ensemble.models, 0.5), "selection": ensemble.selection, "largest": None}
    files["choosing"].write_text(json.dumps(chosen))
    for path in files.values():
        os.utime(path, ns=(MADE, MADE))
    return files


@pytest.mark.parametrize(
    ("key", "values", "of", "difference"),
    [
        ("split", {"seed": 3}, {"sampling"}, "split_seed 0, configured is 3"),
        ("training", {"encoder_lr": 0.002}, {"training"}, "training.encoder_lr 0.001, configured is 0.002"),
        ("prediction", {"beams": 7}, {"reading"}, "reading.beams 2, configured is 7"),
        (
            "depiction",
            {"palette": "colour"},
            {"drawing", "training", "benchmark"},
            'depiction.palette "black_and_white", configured is "colour"',
        ),
        ("prediction", {"timed_images": 1}, set(), ""),
        ("training", {"precision": "auto"}, set(), ""),
    ],
)
def test_what_was_made_with_other_settings_is_dated_back_until_they_return(
    raw: dict[str, Any],
    key: str,
    values: dict[str, Any],
    of: set[str],
    difference: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = load(raw)
    files = write(before)
    date_back(before)
    assert {path.stat().st_mtime_ns for path in files.values()} == {MADE}
    after = load({**raw, key: raw[key] | values})
    for _ in range(2):  # the second time nothing is left to be done
        date_back(after)
        dated = {name for name, path in files.items() if path.stat().st_mtime_ns == MADE - FIFTY_YEARS}
        assert dated == of
    assert capsys.readouterr().err.count(f"made with {difference}") == len(of)
    date_back(before)
    assert {path.stat().st_mtime_ns for path in files.values()} == {MADE}


@pytest.mark.parametrize(
    ("key", "values", "of", "difference"),
    [
        ("drawings", {"style": {"size": 500}}, {"named drawing"}, "style.size"),
        ("test_sets", {"size": 5}, {"reading", "named drawing"}, "size "),
        ("ensembles", {"selection": "best"}, {"choosing"}, 'selection "listed", configured is "best"'),
    ],
)
def test_entries_of_lists(
    raw: dict[str, Any],
    key: str,
    values: dict[str, Any],
    of: set[str],
    difference: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = write(load(raw))
    date_back(load({**raw, key: [raw[key][0] | values, *raw[key][1:]]}))
    assert {name for name, path in files.items() if path.stat().st_mtime_ns != MADE} == of
    assert capsys.readouterr().err.count(f"made with {difference}") == len(of)


def test_an_ensemble_of_other_models(raw: dict[str, Any]) -> None:
    files = write(load(raw))
    members = raw["ensembles"][0]["models"]
    date_back(load({**raw, "ensembles": [raw["ensembles"][0] | {"models": members[::-1]}]}))
    assert {name for name, path in files.items() if path.stat().st_mtime_ns != MADE} == {"choosing"}


def test_what_is_damaged_or_says_nothing_is_left_to_its_readers(raw: dict[str, Any]) -> None:
    config = load(raw)
    files = write(config)
    for path, data in zip(files.values(), (b"", b"{", b"[]", b"PAR1", b"", b"PK", b"\xff"), strict=True):
        path.write_bytes(data)
        os.utime(path, ns=(MADE, MADE))
    date_back(config)
    assert {path.stat().st_mtime_ns for path in files.values()} == {MADE}


def test_planning_needs_no_pyarrow() -> None:
    """With --sdm conda only the jobs' environments have it."""
    lines = (REPOSITORY / "workflow/rules/common.smk").read_text().splitlines()
    imports = [line for line in lines if line.startswith("from ocsrflow.")]
    assert len(imports) >= 9
    script = "\n".join([*imports, "import sys", "sys.exit('pyarrow' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
