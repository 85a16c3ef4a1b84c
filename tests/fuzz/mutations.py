"""Hypothesis strategies for damaged and hostile files: bytes changed anywhere, and checksums mended behind them."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import yaml
from hypothesis import strategies as st
from ocsrflow.config.depiction import Depiction

# What sizes, counts and offsets are most often wrong with, as they lie in files.
NUMBERS = [0, 1, 2**40, *(2**bits - k for bits in (7, 8, 15, 16, 31, 32, 63, 64) for k in (0, 1))]
LONGEST_PIECE = 64


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of some files with a few changes."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = _place(draw, len(data))
        match draw(st.sampled_from(["flip", "number", "bytes", "remove", "repeat", "cut", "join"])):
            case "flip" if data:
                data[at % len(data)] ^= 1 << draw(st.integers(0, 7))
            case "number":
                width = draw(st.sampled_from([1, 2, 4, 8]))
                number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * width)
                data[at : at + width] = number.to_bytes(width, draw(st.sampled_from(["big", "little"])))
            case "bytes":
                data[at : at + draw(st.integers(0, LONGEST_PIECE))] = draw(st.binary(max_size=LONGEST_PIECE))
            case "remove":
                del data[at : at + draw(st.integers(1, LONGEST_PIECE))]
            case "repeat":
                piece = data[at : at + draw(st.integers(1, LONGEST_PIECE))]
                data[at:at] = piece * draw(st.integers(1, 50))
            case "cut":
                del data[at:]
            case "join":
                data[at:] = draw(st.sampled_from(seeds))[at:]
    return bytes(data)


def _place(draw: st.DrawFn, length: int) -> int:
    """A place in a file; what decides how the rest is read stands mostly at its beginning or at its end."""
    near = draw(st.integers(0, min(length, 200)))
    return draw(st.sampled_from([near, max(0, length - near)]) | st.integers(0, length))


def values() -> st.SearchStrategy[Any]:
    """Any value that JSON and YAML can hold, the unpleasant ones often."""
    nasty = [None, True, 0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, float("inf"), float("nan")]
    nasty += [
        "",
        "\0",
        "\ud800",
        "\n",
        "\x1b[2J",
        "𝔸" * 300,
        "../../x",
        "$(touch x)",
        "2026-02-30",
        [],
        {},
        [[]],
        {"": None},
    ]
    leaves = st.sampled_from(nasty) | st.integers() | st.floats() | st.text(max_size=20)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner))


@st.composite
def grafted(draw: st.DrawFn, trees: list[Any]) -> Any:
    """One of some value trees with a few values replaced, removed or added."""
    tree = json.loads(json.dumps(draw(st.sampled_from(trees))))
    for _ in range(draw(st.integers(1, 4))):
        tree = _grafted(draw, tree, draw(st.integers(0, 4)))
    return tree


def _grafted(draw: st.DrawFn, tree: Any, depth: int) -> Any:
    if depth and isinstance(tree, dict) and tree:
        key = draw(st.sampled_from(sorted(tree)))
        return {**tree, key: _grafted(draw, tree[key], depth - 1)}
    if depth and isinstance(tree, list) and tree:
        at = draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], _grafted(draw, tree[at], depth - 1), *tree[at + 1 :]]
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "remove" and isinstance(tree, dict | list) and tree:
        kept = list(tree)[1:]
        return kept if isinstance(tree, list) else {key: tree[key] for key in kept}
    if change == "add" and isinstance(tree, dict):
        return {**tree, draw(st.text(max_size=8)): draw(values())}
    return [*tree, draw(values())] if change == "add" and isinstance(tree, list) else draw(values())


def as_json(trees: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Value trees as files of JSON."""
    return trees.map(lambda tree: json.dumps(tree).encode())


def as_yaml(trees: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Value trees as files of YAML."""
    return trees.map(lambda tree: yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


def gzipped(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Files as gzip members, whose checksums fit."""
    return st.lists(files, min_size=1, max_size=3).map(lambda parts: b"".join(gzip.compress(p, 1) for p in parts))


def with_png_checksums(files: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """PNGs whose chunks have the checksums that fit, so that decoders look into them."""
    return files.map(_mend_png)


def _mend_png(data: bytes) -> bytes:
    if not data.startswith(b"\x89PNG"):
        return data
    at, out = 8, bytearray(data[:8])
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + data[at:])


@st.composite
def rezipped(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A zip archive of which one member was changed, and whose checksums fit."""
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(seeds)))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    members[name] = draw(damaged([members[name]]))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@st.composite
def reheaded(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A safetensors file of which the header, a JSON text behind its length, was changed."""
    data = draw(st.sampled_from(seeds))
    length = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + length])
    few = {name: tree[name] for name in draw(st.lists(st.sampled_from(sorted(tree)), min_size=1, unique=True))}
    changed = draw(grafted([few]))
    header = json.dumps({**tree, **changed} if isinstance(changed, dict) else changed).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


@st.composite
def restructured(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """An HDF5 file that is whole, but whose attributes and columns are others."""
    file = io.BytesIO(draw(st.sampled_from(seeds)))
    with h5py.File(file, "r+") as h5:
        for _ in range(draw(st.integers(1, 3))):
            change = draw(st.sampled_from(["attribute", "remove", "resize", "replace", "group", "fill"]))
            names = sorted(h5)
            if change == "attribute":
                _set(h5.attrs, draw(st.sampled_from(sorted(h5.attrs))), draw(_attributes()))
            elif names:
                name = draw(st.sampled_from(names))
                _change(draw, h5, name, change)
    return file.getvalue()


@st.composite
def reheaped(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """An HDF5 file whose global heap is another: the one structure that HDF5 reads without a checksum.

    A collection begins with ``GCOL``, a version and its size. Behind 16 bytes lie its pieces, each with a number (0 for
    what is free), a count and a size, of 2, 2 and 8 bytes, with 4 between the last two.
    """
    data = bytearray(draw(st.sampled_from(seeds)))
    pieces = [at for begin in _all_places(data, b"GCOL") for at in _pieces(data, begin)]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(pieces))
        offset, width = draw(st.sampled_from([(0, 2), (2, 2), (8, 8)]))
        number = draw(st.sampled_from([*NUMBERS, 8, 15, 16, 17, 4096, 2**64 - 16, 2**64 - 24]) | st.integers(0, 5000))
        data[at + offset : at + offset + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data)


def _all_places(data: bytearray, what: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(what, at)]


def _pieces(data: bytearray, begin: int) -> list[int]:
    """Where the pieces of a collection begin; its own header, whose size lies likewise, is one of them."""
    found, at = [begin], begin + 16
    end = min(len(data), begin + int.from_bytes(data[begin + 8 : begin + 16], "little"))
    while at + 16 <= end:
        found.append(at)
        number, size = (int.from_bytes(data[at + i : at + i + n], "little") for i, n in ((0, 2), (8, 8)))
        at += 16 + -(-size // 8) * 8 if number else max(16, size)
    return found


def _attributes() -> st.SearchStrategy[Any]:
    trees = grafted([Depiction().model_dump(mode="json"), ["C"]])
    return trees.map(json.dumps) | st.sampled_from([b"\xff", 7, np.zeros(3), "", "[" * 3000, "NaN"])


def _set(attributes: h5py.AttributeManager, name: str, value: Any) -> None:
    if value is None or len(str(value)) > 60_000:  # more than HDF5 takes
        del attributes[name]
    else:
        attributes[name] = value


def _change(draw: st.DrawFn, h5: h5py.File, name: str, change: str) -> None:
    column = h5[name]
    if change == "resize" and isinstance(column, h5py.Dataset) and column.maxshape and column.maxshape[0] is None:
        column.resize(draw(st.sampled_from([0, 1, 2, 5, 10**6, 2**40])), axis=0)
    elif change == "fill" and isinstance(column, h5py.Dataset) and column.dtype.kind in "iu" and column.ndim == 1:
        column[: len(column)] = draw(st.sampled_from([0, 3, 250, np.iinfo(column.dtype).max]))
    elif change in ("replace", "group", "remove"):
        del h5[name]
        shape = draw(st.sampled_from([(), (0,), (3,), (3, 2), (3, 1, 32, 32)]))
        if change == "replace":
            h5.create_dataset(name, shape, draw(st.sampled_from(["i8", "f4", "u1", "S3", h5py.string_dtype()])))
        elif change == "group":
            h5.create_group(name)


def of(reader: str, seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """The files that a reader is tried with."""
    plain = damaged(seeds)
    trees: Callable[[], list[Any]] = lambda: [yaml.safe_load(seed) for seed in seeds]  # noqa: E731
    match reader:
        case "corpus":
            return plain | gzipped(plain) | damaged([gzip.compress(seed) for seed in seeds]) | st.binary(max_size=200)
        case "own_picture" | "supplied_picture":
            return plain | with_png_checksums(plain)
        case "archive" | "checkpoint":
            return plain | rezipped(seeds)
        case "packed" | "shard":
            return plain | restructured(seeds) | reheaped(seeds)
        case "description" | "calibration" | "members":
            return plain | as_json(grafted(trees()))
        case "weights":
            return plain | reheaded(seeds)
        case "configuration":
            return plain | as_yaml(grafted(trees()))
    return plain
