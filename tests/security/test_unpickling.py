"""No file from elsewhere is executed: no pickle, no YAML tag, no PostScript."""

import ast
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from ocsrflow.config import experiment as configuration
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import Network
from ocsrflow.corpus.picture_folder import PictureFolder
from ocsrflow.evaluation.score import score
from ocsrflow.network.model import imagenet, load_model
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.picture_files import load
from ocsrflow.runtime.errors import UserError
from ocsrflow.training.checkpoints import Checkpoints
from PIL import EpsImagePlugin, Image
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from support.checkout import REPOSITORY
from support.data import TINY

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "skops"}
CALLS = {
    "eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen",
    "pd.read_pickle", "torch.jit.load", "torch.hub.load", "mlflow.pyfunc.load_model", "numpy.load", "np.load",
}  # fmt: skip


def suspicious(path: Path) -> Iterator[str]:
    """What of a module could execute a file, or a text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            wrong = any(name.name.split(".")[0] in MODULES for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            wrong = (node.module or "").split(".")[0] in MODULES
        elif isinstance(node, ast.Call):
            called, words = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
            wrong = called in CALLS or bool({"shell", "allow_pickle"} & words.keys())
            if called == "torch.load":
                safe = words.get("weights_only")
                wrong = not (isinstance(safe, ast.Constant) and safe.value is True)
        else:
            continue
        if wrong:
            yield f"{path.name}: {ast.unparse(node)[:80]}"


def test_no_module_unpickles_or_evaluates() -> None:
    files = [*REPOSITORY.glob("workflow/**/*.py"), *REPOSITORY.glob("envs/*.py")]
    assert len(files) > 100
    found = [line for path in files for line in suspicious(path)]
    # Which only looks whether a function is one of the module that was started.
    assert found == ["isolated.py: import pickle"]
    called = {
        ast.unparse(node)
        for node in ast.walk(ast.parse((REPOSITORY / "workflow/ocsrflow/runtime/isolated.py").read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pickle.")
    }
    assert called == {"pickle.dumps"}


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.fixture
def pwned(tmp_path: Path) -> Iterator[Path]:
    """The file that is there once something was executed."""
    target = tmp_path / "pwned"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()  # the bomb works
    target.unlink()
    yield target
    assert not target.exists()


def test_a_hostile_checkpoint_is_passed_over(tmp_path: Path, pwned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", "key", {})
    checkpoints.folder.mkdir()
    good = checkpoints.save(1, {"step": 1})
    torch.save({"key": "key", "settings": {}, "bomb": Bomb(pwned)}, checkpoints.folder / "step-000000002.pt")
    (checkpoints.folder / "step-000000003.pt").write_bytes(pickle.dumps(Bomb(pwned)))
    newest = checkpoints.newest()
    assert newest is not None
    assert newest[0] == good
    first, second = capsys.readouterr().out.splitlines()
    assert "step-000000003.pt is damaged (File is not a zip file)" in first
    assert (
        "step-000000002.pt is damaged (it holds more than numbers and texts, and nothing in it is executed)" in second
    )


def test_hostile_weights_are_refused(tmp_path: Path, pwned: Path) -> None:
    torch.save({"conv1.weight": Bomb(pwned)}, tmp_path / "zip.pth")
    torch.save({"conv1.weight": Bomb(pwned)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb(pwned), protocol=2))
    for name in ("zip.pth", "old.pth", "bare.pth"):
        with pytest.raises(UserError, match=r"no PyTorch weights file \(it holds more than numbers and texts"):
            imagenet(Network(encoder="resnet18"), tmp_path / name)
    description, weights = tmp_path / "model.json", tmp_path / "weights.safetensors"
    facts = {"name": "m", "network": TINY.model_dump(), "vocabulary": ["C"], "training": {"decode_length": 9}}
    description.write_text(json.dumps(facts))
    shutil.copy(tmp_path / "zip.pth", weights)
    with pytest.raises(UserError, match="damaged, or not the weights"):
        load_model(description, weights, torch.device("cpu"))
    description.write_bytes(pickle.dumps(Bomb(pwned)))
    with pytest.raises(UserError, match="damaged, no JSON"):
        load_model(description, weights, torch.device("cpu"))


def test_hostile_data_sets_and_tables_are_data(dataset: Path, tmp_path: Path, pwned: Path) -> None:
    bomb = pickle.dumps(Bomb(pwned))
    shutil.copy(dataset / "images.h5", tmp_path / "images.h5")
    with h5py.File(tmp_path / "images.h5", "a") as file:
        file.attrs["vocabulary"] = np.void(bomb)
    with pytest.raises(UserError, match="not a whole packed data set"):
        Packed(tmp_path / "images.h5")
    (tmp_path / "bare.h5").write_bytes(bomb)
    with pytest.raises(UserError, match="not a whole packed data set"):
        Packed(tmp_path / "bare.h5")
    # Earlier versions of Arrow unpickled the metadata of such a column.
    hostile = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    columns = {"cid": [1], "id": ["1"], "reference": ["CCO"], "prediction": ["CCO"]}
    table = pa.table({**columns, "bomb": pa.array([b"x"])})
    fields = [field.with_metadata(hostile) if field.name == "bomb" else field for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "p.parquet")
    (tmp_path / "p.json").write_text(json.dumps({"name": "m", "kind": "model", "device": "CPU"}))
    score(
        tmp_path / "p.parquet", facts=tmp_path / "p.json", test_set="t",
        out=tmp_path / "s.json", images=tmp_path / "s.parquet",
    )  # fmt: skip
    assert pd.read_parquet(tmp_path / "s.parquet")["tanimoto"].tolist() == [1.0]


def test_tags_of_a_configuration_are_refused(tmp_path: Path, pwned: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"results: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{pwned}']]"
    )
    with pytest.raises(UserError, match="no YAML"):
        configuration.read(path)
    with pytest.raises(WorkflowError, match="not valid JSON or YAML"):
        load_configfile(str(path))


def test_a_program_that_is_called_a_picture_is_not_run(
    tmp_path: Path, pwned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow gives PostScript to Ghostscript."""
    ran: list[str] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append("gs") or Image.new("RGB", (9, 9)).im)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(pwned) (w) file closefile\nshowpage\n"
    (tmp_path / "p.png").write_bytes(program)
    with Image.open(tmp_path / "p.png") as image:
        image.load()
    assert ran == ["gs"]  # which would be run
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as file:
        file.writestr("p.png", program)
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "p.png", tmp_path / "folder")
    for folder in (tmp_path / "p.zip", tmp_path / "folder"):
        with pytest.raises(ValueError, match="cannot be read"):
            PictureFolder(folder).read("p.png")
    with pytest.raises(ValueError, match="not a picture of a known kind"):
        load(tmp_path / "p.png", Depiction(size=64))
    assert ran == ["gs"]


def test_a_registered_model_has_code_and_no_pickle(toy: Path) -> None:
    """Loading one from MLflow runs the code that lies with it: docs/security.md says so."""
    described = list(toy.glob("results/mlflow-artifacts/**/MLmodel"))
    assert described
    for path in described:
        facts = yaml.safe_load(path.read_text())["flavors"]["python_function"]
        assert facts["loader_module"] == "mlflow.pyfunc.loaders.code_model"  # mlflow_pyfunc.py, as text
        assert "python_model" not in facts
        assert [p.name for p in path.parent.rglob("*") if p.suffix in (".pkl", ".pickle", ".joblib", ".pt")] == []
