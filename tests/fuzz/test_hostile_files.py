"""Files from elsewhere, searched for what harms: no crash, no hang over its time limit, no memory over its limit.

Hypothesis makes the files (:mod:`mutations`), a process under limits reads each (:mod:`sandbox`). One that was harmful
is kept, as small as Hypothesis gets it, as ``corpus/READER/found``: give it a name that says what it is, mend the
reader, and leave the file, which is a test from then on. ``OCSRFLOW_FAULTS=full`` tries ten times as many.
"""

import gzip
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mutations
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ocsrflow.config import experiment
from ocsrflow.config.planning import shards
from ocsrflow.runtime.errors import UserError
from ocsrflow.training.checkpoints import Checkpoints
from readers import KEY, READERS, SEEDS
from sandbox import Limits, Outcome, Sandbox
from support.checkout import REPOSITORY
from support.faults import FULL

CORPUS = Path(__file__).parent / "corpus"
# How many files each reader is tried with; the readers of models take tens of milliseconds for one.
EXAMPLES = {"description": 25, "calibration": 20, "members": 30, "weights": 40, "table": 50, "configuration": 60}
OF_OTHERS = 100
LARGE = Limits(seconds=60, megabytes=1536)  # for files that take their time by their size alone


class Sandboxes:
    """A sandbox for each reader, started when it is needed."""

    def __init__(self) -> None:
        self._opened: dict[str, Sandbox] = {}

    def read(self, reader: str, data: bytes | Path, limits: Limits = Limits()) -> Outcome:  # noqa: B008  (immutable)
        if reader not in self._opened:
            own = READERS[reader]
            self._opened[reader] = Sandbox(own.read, own.refusals, lines=own.lines)
        return self._opened[reader].read(data, limits)

    def close(self) -> None:
        for sandbox in self._opened.values():
            sandbox.close()


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[Sandboxes]:
    made = Sandboxes()
    yield made
    made.close()


@pytest.mark.parametrize("reader", READERS)
def test_files_to_begin_with_are_read(sandboxes: Sandboxes, reader: str) -> None:
    outcomes = [sandboxes.read(reader, seed) for seed in SEEDS[reader]()]
    assert outcomes[0].kind == "read", outcomes[0].detail
    assert all(outcome.harmless for outcome in outcomes), outcomes


@pytest.mark.parametrize("reader", READERS)
def test_no_changed_file_harms(sandboxes: Sandboxes, reader: str) -> None:
    kinds: set[str] = set()

    @settings(
        max_examples=EXAMPLES.get(reader, OF_OTHERS) * (10 if FULL else 1),
        derandomize=not FULL,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        file = data.draw(files)
        outcome = sandboxes.read(reader, file)
        kinds.add(outcome.kind)
        if not outcome.harmless:
            kept = CORPUS / reader / "found"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(file)
            pytest.fail(f"{outcome.kind}, {outcome.detail}\nThe file is kept as {kept}", pytrace=False)

    files = mutations.of(reader, SEEDS[reader]())
    try_one()
    assert "refused" in kinds or reader == "checkpoint"  # a damaged checkpoint is passed over


KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", KEPT, ids=[f"{path.parent.name}/{path.stem}" for path in KEPT])
def test_what_was_found_harms_no_more(sandboxes: Sandboxes, path: Path) -> None:
    outcome = sandboxes.read(path.parent.name, path.read_bytes())
    assert outcome.harmless, outcome


# A sandbox that lets everything pass would find nothing.


def sleep(_: Path) -> None:
    import time

    time.sleep(600)


def die(_: Path) -> None:
    os.kill(os.getpid(), 11)


def grow(_: Path) -> None:
    bytearray(200 << 20)[:: 1 << 12] = b"x" * (200 << 8)


def ask_for_more_than_there_is(_: Path) -> None:
    bytearray(1 << 40)


def fail(_: Path) -> None:
    raise KeyError("x")


def refuse_without_a_word(_: Path) -> None:
    raise ValueError


def refuse_in_two_lines(_: Path) -> None:
    raise ValueError("one\ntwo")


@pytest.mark.parametrize(
    ("read", "kind"),
    [
        (sleep, "hung"),
        (die, "died"),
        (grow, "grew"),
        (ask_for_more_than_there_is, "crashed"),
        (fail, "crashed"),
        (refuse_without_a_word, "crashed"),
        (refuse_in_two_lines, "crashed"),
    ],
)
def test_the_sandbox_sees_harm_and_goes_on(read, kind: str) -> None:
    sandbox = Sandbox(read, (ValueError,))
    try:
        for _ in range(2):
            outcome = sandbox.read(b"", Limits(seconds=0.1 if kind == "hung" else 60, megabytes=100))
            assert outcome.kind == kind, outcome
    finally:
        sandbox.close()


# Bombs: small files that say, or inflate to, more than any memory holds.


def test_a_line_without_end_takes_no_memory(sandboxes: Sandboxes, tmp_path: Path) -> None:
    # 10 GB where all is searched, 500 MB else, in one line over members of 16 MB.
    members = 640 if FULL else 32
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"1\tC\n2\t") + gzip.compress(b"C" * (1 << 24)) * members + gzip.compress(b"\n3\tN"))
    outcome = sandboxes.read("corpus", path, Limits(LARGE.seconds, 128))
    assert outcome.kind == "read", outcome


def test_lines_without_anything_take_no_more_memory_the_more_there_are(sandboxes: Sandboxes, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"\n" * ((64 if FULL else 8) << 20) + b"1\tC", 1))
    outcome = sandboxes.read("corpus", path, LARGE)
    assert outcome.kind == "read", outcome


def png(width: int, height: int, *, bits: int = 1, colour: int = 0, full: bool = True) -> bytes:
    """A white PNG; its header alone where it is not to be ``full``."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + b"\xff" * ((width * bits * {0: 1, 6: 4}[colour] + 7) // 8) if full else b""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(row * 64) for _ in range(height // 64)) if full else b""
    rows += packer.compress(row * (height % 64)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SIZES = [
    (2**31 - 1, 2**31 - 1, "million pixels|exceeds limit"),
    (9000, 9000, "million pixels"),
    (80_000_000, 1, "in a row"),
    (1, 80_000_000, "in a row"),
]


@pytest.mark.parametrize("reader", ["own_picture", "supplied_picture"])
def test_pictures_of_absurd_sizes_are_refused_by_their_headers(sandboxes: Sandboxes, reader: str) -> None:
    for width, height, message in SIZES:
        outcome = sandboxes.read(reader, png(width, height, full=False), Limits(seconds=5, megabytes=64))
        assert outcome.kind == "refused", outcome
        assert any(words in outcome.detail for words in message.split("|")), outcome.detail


@pytest.mark.parametrize("reader", ["own_picture", *(["supplied_picture"] if FULL else [])])
def test_the_largest_pictures_that_are_opened_stay_below_the_limit(sandboxes: Sandboxes, reader: str) -> None:
    kinds = [(1, 0), (8, 0), (16, 0), (8, 6), (16, 6)] if FULL else [(1, 0)]
    for bits, colour in kinds:
        outcome = sandboxes.read(reader, png(8900, 8900, bits=bits, colour=colour), LARGE)
        assert outcome.harmless, (bits, colour, outcome)


def zipped(name: str, block: bytes, times: int) -> bytes:
    """A zip archive with one long member, which is the same over and over."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as member,
    ):
        for _ in range(times):
            member.write(block)
    return file.getvalue()


def test_a_picture_in_an_archive_that_inflates_to_more_than_any_picture_has_is_refused(sandboxes: Sandboxes) -> None:
    bomb = zipped("a.png", bytes(1 << 20), 2048 if FULL else 300)
    outcome = sandboxes.read("archive", bomb, Limits(seconds=5, megabytes=64))
    assert outcome.kind == "refused"
    assert "no picture of a molecule has more than 256" in outcome.detail


def test_an_archive_that_belies_the_size_of_a_member_is_not_believed(sandboxes: Sandboxes) -> None:
    honest = SEEDS["archive"]()[1]
    with zipfile.ZipFile(io.BytesIO(honest)) as archive:
        size = struct.pack("<I", archive.getinfo("a.png").file_size)
    for lie in (1, 10, 2**31, 2**32 - 2):
        outcome = sandboxes.read("archive", honest.replace(size, struct.pack("<I", lie)), Limits(5, 64))
        assert outcome.kind == "refused", (lie, outcome)


def test_a_checkpoint_that_inflates_is_taken_for_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "step-000000001.pt").write_bytes(zipped("archive/data.pkl", bytes(1 << 20), 50))
    assert Checkpoints(tmp_path, KEY, {}).newest() is None
    assert "holds more than its file has" in capsys.readouterr().out


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 40)
)
CONFIGURATIONS = {
    "laughs": LAUGHS,
    "laughs in a section": LAUGHS + "network: {encoder: *a39}\ntraining: *a39\nmodels: *a39\nresults: *a39\n",
    "itself": "models: &a [*a]\nnetwork: &b {encoder: *b}\nsources: *a\n",
    "lists in lists": "[" * 100_000,
    "mappings in mappings": "{a: " * 100_000,
    "blocks in blocks": "- " * 20_000,
    "tags": "!!python/object/apply:os.system ['exit 3']",
    "bytes": "\x80\xff",
    "a number of many digits": f"results: {'9' * 5000}",
    "a hexadecimal number of many digits": f"results: 0x{'f' * 5000}",
    "a date that is none": "results: 2026-02-30",
    "nothing": "",
    "a list": "[1, 2]",
    "a text": "ocsrflow",
    "keys that are lists": "? [a, b]\n: c",
    "keys that are numbers": "{1: 2, null: 3, 1.5: 4}",
    "two documents": "a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_hostile_configuration_is_refused(sandboxes: Sandboxes, name: str) -> None:
    outcome = sandboxes.read("configuration", CONFIGURATIONS[name].encode("latin-1"), Limits(5, 128))
    assert outcome.kind == "refused", outcome


def spoil(path: str, value: object) -> dict[str, Any]:
    """The shipped configuration with another value at one place."""
    raw: Any = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    *parents, last = path.split(".")
    place = raw
    for key in parents:
        place = place[int(key)] if key.isdigit() else place.setdefault(key, {})
    place[last] = value
    return raw


NO_NUMBERS = [float("inf"), float("-inf"), float("nan")]
REAL = ["training.encoder_lr", "training.gradient_clip", "rendering.time_limit", "checkpoints.minutes"]
WHOLE = ["training.epochs", "datasets.0.size", "datasets.0.shards", "split.seed", "report.gallery"]


@pytest.mark.parametrize(
    ("path", "numbers"),
    [*((path, NO_NUMBERS) for path in REAL), *((path, [*NO_NUMBERS, 10**30, -(10**30)]) for path in WHOLE)],
)
def test_numbers_beyond_all_use_are_refused(path: str, numbers: list[float]) -> None:
    # They would be null, or another number, in the JSON by which a stage is given its settings.
    for number in numbers:
        with pytest.raises(UserError, match=rf"{path}: .*(finite number|less than|greater than|at most|integer)"):
            experiment.load(spoil(path, number))


def test_the_largest_numbers_that_are_allowed_divide_into_shards() -> None:
    cfg = experiment.load(spoil("datasets.0.size", 2**53))
    assert shards(cfg, cfg.datasets[0]) == -(-(2**53) // 100_000)
