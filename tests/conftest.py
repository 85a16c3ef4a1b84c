"""What the tests share: a small packed data set of real molecules, made by the real stages."""

import gzip
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

# Tests run side by side, with more threads than cores: those that wait must not keep the others waiting.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from fault_table import faults, pytest_terminal_summary  # noqa: F401  (pytest finds them here)
from hypothesis import settings
from ocsrflow.config.depiction import Depiction
from ocsrflow.config.network import Network
from ocsrflow.config.training import Training
from ocsrflow.corpus.download import download
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.sample import sample
from ocsrflow.evaluation.score import score
from ocsrflow.network.model import Reader
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.render import render
from ocsrflow.runtime.files import write_json
from safetensors.torch import save_file
from xdist.scheduler import LoadScopeScheduling

REPOSITORY = Path(__file__).parent.parent


def module_of(stage: str) -> str:
    """The module of a stage, which bears its name."""
    (path,) = (REPOSITORY / "workflow/ocsrflow").glob(f"*/{stage}.py")
    return f"ocsrflow.{path.parent.name}.{stage}"


CONFIG = "tests/workflow/toy.yaml"
# In the folder of results, as in docs/how-to/stop-and-resume.md.
CHECK_HASHES = "set -o pipefail; find hashes -name '*.sha256' -exec cat {} + | sha256sum --check --quiet"

settings.register_profile("ocsrflow", deadline=None)  # what takes long once need not be slow: machines are noisy
settings.load_profile("ocsrflow")


# Folders and files whose tests look at the finished toy experiment.
USE_TOY = tuple(
    f"tests/{name}"
    for name in (
        "browser/", "workflow/test_workflow", "faults/test_signals", "faults/test_stage_kills",
        "security/test_unpickling",
    )
)  # fmt: skip


class SideBySide(LoadScopeScheduling):
    """Tests run in some processes, those of a file in one, and in one all that need the toy experiment to be run."""

    def _split_scope(self, nodeid: str) -> str:
        return "toy" if nodeid.startswith(USE_TOY) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Asked for by pytest-xdist."""
    return SideBySide(config, log)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The filtered NCI molecules."""
    folder = tmp_path_factory.mktemp("nci")
    download(kind="nci", out=folder / "CID-SMILES.gz")
    filter_corpus(
        folder / "CID-SMILES.gz",
        max_length=100,
        kept=folder / "kept.parquet",
        lengths=folder / "lengths.csv",
        rejects=folder / "rejects.csv",
    )
    return folder / "kept.parquet"


def make_dataset(
    kept: Path, folder: Path, *, size: int = 60, pixels: int = 64, max_length: int = 14, shards: int = 1
) -> Path:
    """A packed data set of short NCI molecules; the folder of all its files."""
    depiction = Depiction(size=pixels, palette="black_and_white")
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


@pytest.fixture(scope="session")
def dataset(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty short molecules, packed from two shards."""
    return make_dataset(kept, tmp_path_factory.mktemp("dataset"), shards=2)


# Few layers: each makes the threads wait for one another, which takes long where others compute as well.
TINY = Network(encoder="resnet18", pretrained="none", frozen_children=0, image_size=32, stride=8, grid=4, dim=16)


def make_model(dataset: Path, folder: Path, seed: int) -> Path:
    """A model of random weights, as the stage ``train`` writes it; its folder."""
    packed = Packed(dataset / "images.h5")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    save_file(Reader(TINY, len(packed.vocabulary)).state_dict(), folder / "weights.safetensors")
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


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine would make small tensors a hundred times as slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def hear_ctrl_c() -> None:
    """Called in a process about to be started: one in the background of a shell is deaf to SIGINT otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(url: str, process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    """Wait until a server that was started answers."""
    for _ in range(int(10 * seconds)):
        try:
            urllib.request.urlopen(url, timeout=1)
            return
        except OSError:
            assert process.poll() is None, f"{url}: the server has ended"
            time.sleep(0.1)
    raise AssertionError(f"{url}: no answer")


class MlflowServer:
    """MLflow's own server with its artifact proxy, which can be killed and started again."""

    def __init__(self, folder: Path, store: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.store = store or f"sqlite:///{folder / 'server.db'}"
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self, workers: int = 1) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self.store]
        command += ["--port", str(self.port), "--workers", str(workers)]
        self.process = subprocess.Popen(
            [*command, "--artifacts-destination", str(self.folder / "artifacts")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
        wait_for(f"{self.uri}/health", self.process)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Server:
    """An HTTP server on this machine whose answers a test can spoil."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []  # path, Range
        self.sent: Counter[str] = Counter()  # bytes of each file
        # What the next requests of a path get in place of the right answer.
        self.answers: dict[str, list[Callable[[http.server.BaseHTTPRequestHandler], None]]] = {}
        self.fail_next = 0  # so many answers are 503
        self.cut_after: int | None = None  # bytes of the next answer before the connection drops
        self.etag = '"one"'
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                if outer.answers.get(self.path):
                    outer.answers[self.path].pop(0)(self)
                    return
                if outer.fail_next:
                    outer.fail_next -= 1
                    self.send_error(503)
                    return
                if self.path not in outer.files:
                    self.send_error(404)
                    return
                data, status = outer.files[self.path], 200
                wanted = self.headers.get("Range")
                if wanted and self.headers.get("If-Range") == outer.etag:
                    start, whole = int(wanted.removeprefix("bytes=").rstrip("-")), len(data)
                    data, status = data[start:], 206 if start < whole else 416
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", outer.etag)
                self.end_headers()
                if outer.cut_after is not None:
                    data, outer.cut_after = data[: outer.cut_after], None
                    self.close_connection = True
                outer.sent[self.path] += len(data)
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test."""
    made = Server()
    yield made
    made.server.shutdown()


def gzipped(text: str | bytes) -> bytes:
    """Text as gzip bytes."""
    return gzip.compress(text.encode() if isinstance(text, str) else text)


def snakemake(folder: Path, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Snakemake in a checkout."""
    run = subprocess.run(
        [sys.executable, "-m", "snakemake", *options], cwd=folder, capture_output=True, text=True, check=False
    )
    if check:
        assert run.returncode == 0, run.stdout + run.stderr
    return run


def copy_checkout(folder: Path) -> Path:
    """The files of this checkout, as they are, in a new folder."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in files:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the toy experiment has run."""
    folder = copy_checkout(tmp_path_factory.mktemp("toy"))
    snakemake(folder, "--cores", "2", "--configfile", CONFIG)
    return folder
