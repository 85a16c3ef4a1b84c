"""Render, pack and read, measured on one data set: bytes and time of the formats tried, pictures read a second.

    python tests/benchmarks/pictures.py [--molecules CID-SMILES.gz] [--pictures 3000] [--size 300] [--rounds 5]

The data set is made by the stages themselves. All rates are medians over the rounds, which are interleaved.
"""

import argparse
import io
import json
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import zstandard
from ocsrflow.chem.tokenizer import encode
from ocsrflow.config.depiction import Depiction
from ocsrflow.corpus.download import download
from ocsrflow.corpus.filter import filter_corpus
from ocsrflow.corpus.sample import sample
from ocsrflow.network.batches import Loader
from ocsrflow.pictures.pack import pack
from ocsrflow.pictures.packed_file import Packed
from ocsrflow.pictures.picture_chunks import Compressor, create, read_chunk, write_chunk
from ocsrflow.pictures.render import render
from PIL import Image

DEPICTION = Depiction()


def make(folder: Path, source: Path | None, pictures: int, depiction: Depiction) -> tuple[float, float]:
    """Make the data set; seconds of render and of pack."""
    if source is None:
        source = folder / "CID-SMILES.gz"
        download(kind="nci", out=source)
    kept, drawn = folder / "kept.parquet", folder / "sample.parquet"
    names = ("lengths", "rejects", "tokens", "vocabulary")
    lengths, rejects, tokens, vocabulary = (folder / name for name in names)
    filter_corpus(source, max_length=100, kept=kept, lengths=lengths, rejects=rejects)
    sample(kept, out=drawn, lengths=lengths, rejects=rejects, max_length=100, size=pictures, processes=1)
    start = time.perf_counter()
    render(drawn, store=folder / "store", out=folder / "0.parquet", rejects=rejects, depiction=depiction)
    middle = time.perf_counter()
    outputs = {"tokens": tokens, "vocabulary": vocabulary, "rejects": rejects}
    pack(drawn, folder, store=folder / "store", shards=1, out=folder / "images.h5", **outputs)
    return middle - start, time.perf_counter() - middle


def formats(
    pictures: list[np.ndarray], folder: Path
) -> Iterator[tuple[str, Callable[[], int], Callable[[int], object]]]:
    """Name, writer (bytes written) and reader of one picture, of each format tried."""
    size = len(pictures)
    shape = pictures[0].shape

    def hdf5(name: str, **options: object) -> tuple[Callable[[], int], Callable[[int], object]]:
        path = folder / f"{name}.h5"

        def write() -> int:
            with h5py.File(path, "w", libver="v110") as file:
                images = file.create_dataset("images", (size, *shape), np.uint8, chunks=(1, *shape), **options)
                for at, picture in enumerate(pictures):
                    images[at] = picture
            return path.stat().st_size

        opened: list[h5py.Dataset] = []

        def read(at: int) -> object:
            if not opened:
                opened.append(h5py.File(path)["images"])
            return opened[0][at]

        return write, read

    yield "PNG files (Pillow)", *_png(pictures, folder)
    yield "HDF5, not compressed", *hdf5("raw")
    yield "HDF5, LZF", *hdf5("lzf", compression="lzf")
    yield "HDF5, gzip 4", *hdf5("gzip", compression="gzip", compression_opts=4)
    yield "HDF5, Blosc (LZ4, byte shuffle)", *hdf5("blosc", **hdf5plugin.Blosc(cname="lz4"))
    yield "HDF5, zstd 3, through HDF5's filter", *hdf5("zstd", **hdf5plugin.Zstd(clevel=3))
    for level in (1, 3, 9):
        yield f"zstd {level}, pixel by pixel, direct", *_direct(pictures, folder, level, planar=False)
        yield f"zstd {level}, channel by channel, direct", *_direct(pictures, folder, level, planar=True)
    yield "the same (3), with checksum: ocsrflow", *_ours(pictures, folder)


def _png(pictures: list[np.ndarray], folder: Path) -> tuple[Callable[[], int], Callable[[int], object]]:
    def write() -> int:
        total = 0
        for at, picture in enumerate(pictures):
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "PNG")
            (folder / f"{at}.png").write_bytes(data.getvalue())
            total += len(data.getvalue())
        return total

    return write, lambda at: np.asarray(Image.open(folder / f"{at}.png"))


def _direct(
    pictures: list[np.ndarray], folder: Path, level: int, *, planar: bool
) -> tuple[Callable[[], int], Callable[[int], object]]:
    path = folder / f"direct-{level}-{planar}.h5"
    unpacker, opened = zstandard.ZstdDecompressor(), []

    def write() -> int:
        packer = zstandard.ZstdCompressor(level=level)
        with h5py.File(path, "w", libver="v110") as file:
            shape = pictures[0].shape
            options = hdf5plugin.Zstd(clevel=level)
            images = file.create_dataset("images", (len(pictures), *shape), np.uint8, chunks=(1, *shape), **options)
            for at, picture in enumerate(pictures):
                data = np.ascontiguousarray(picture.transpose(2, 0, 1)) if planar else np.ascontiguousarray(picture)
                write_chunk(images, at, packer.compress(data.data))
        return path.stat().st_size

    def read(at: int) -> object:
        if not opened:
            opened.append(h5py.File(path)["images"])
        return unpacker.decompress(read_chunk(opened[0], at))

    return write, read


def _ours(pictures: list[np.ndarray], folder: Path) -> tuple[Callable[[], int], Callable[[int], object]]:
    path = folder / "ours.h5"
    compressor = Compressor()
    opened: list[Packed] = []

    def write() -> int:
        with h5py.File(path, "w", libver="v110") as file:
            images = create(file, len(pictures), DEPICTION)
            for at, picture in enumerate(pictures):
                write_chunk(images, at, compressor.chunk(picture))
            none = np.zeros(len(pictures) + 1, np.int64)
            file.update({"cid": none[1:], "split": none[1:], "tokens": none, "offsets": none})
            file.attrs.update({"digest": "", "vocabulary": "[]"})
        return path.stat().st_size

    def read(at: int) -> object:
        if not opened:
            opened.append(Packed(path))
        return opened[0].picture(at)

    return write, read


def format_table(pictures: list[np.ndarray], rounds: int) -> None:
    """Print bytes a picture, and milliseconds to write and to read one at random."""
    order = np.random.default_rng(0).permutation(len(pictures)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        tried = list(formats(pictures, Path(folder)))
        size: dict[str, float] = {}
        writing, reading = defaultdict(list), defaultdict(list)
        for _ in range(rounds):
            for name, write, _ in tried:
                start = time.perf_counter()
                size[name] = write() / len(pictures)
                writing[name].append((time.perf_counter() - start) / len(pictures))
                time.sleep(0.05)  # so that one format does not pay for what another left to write
            for name, _, read in tried:
                start = time.perf_counter()
                for at in order:
                    read(at)
                reading[name].append((time.perf_counter() - start) / len(pictures))
            tried = [(name, (lambda name=name: int(size[name] * len(pictures))), read) for name, _, read in tried]
    print("| format | bytes a picture | ms to write | ms to read at random |\n|---|---|---|---|")
    for name in size:
        print(f"| {name} | {size[name]:,.0f} | {writing[name][0] * 1e3:.2f} | {median(reading[name]) * 1e3:.3f} |")


def median(values: list[float]) -> float:
    return statistics.median(values)


def readers(path: Path, count: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Ways to read pictures at random; each gives how many it has read."""
    packed = Packed(path)
    generator = np.random.default_rng(1)
    batches = [generator.integers(0, len(packed), 128) for _ in range(count // 128)]
    images = h5py.File(path)["images"]
    slot = np.empty((128, *packed.shape), np.uint8)

    def by_list() -> int:
        for batch in batches[:3]:
            images[np.unique(batch).tolist()]
        return sum(len(np.unique(batch)) for batch in batches[:3])

    def one_by_one() -> int:
        for at in batches[0]:
            images[at]
        return len(batches[0])

    def singly() -> int:
        for batch in batches:
            for at in batch:
                packed.picture(at)
        return len(batches) * 128

    def into(memory: np.ndarray | None) -> Callable[[], int]:
        def read() -> int:
            for batch in batches:
                packed.pictures(batch, memory)
            return len(batches) * 128

        return read

    yield "h5py, a list of positions (the trap)", by_list
    yield "h5py, one position at a time", one_by_one
    yield "Packed.picture, one process", singly
    yield "Packed.pictures, new memory every batch", into(None)
    yield "Packed.pictures, the same memory", into(slot)


def read_table(path: Path, rounds: int, count: int) -> None:
    """Print pictures a second, at random."""
    rates: dict[str, list[float]] = defaultdict(list)
    packed = Packed(path)
    for _ in range(rounds):
        for name, read in readers(path, count):
            start = time.perf_counter()
            rates[name].append(read() / (time.perf_counter() - start))
        for workers in (0, 2):
            rates[f"DataLoader, {workers} workers, batches of 128"].append(through_loader(packed, workers, 3 * count))
    print("\n| way of reading | pictures/s |\n|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {median(values):,.0f} |")


def through_loader(packed: Packed, workers: int, count: int) -> float:
    """Pictures a second of the training's loader, without the start and the end of its processes."""
    generator = np.random.default_rng(2)
    batches = [generator.integers(0, len(packed), 128) for _ in range(count // 128 + 12)]
    loader = iter(Loader(packed, batches, 128, workers=workers, pin=False))
    for _ in range(12):  # until all are at work
        next(loader)
    start, end, seen = time.perf_counter(), 0.0, 0
    for batch in loader:
        seen += len(batch.pictures)
        end = time.perf_counter()
    return seen / (end - start)


def memory(path: Path, count: int) -> None:
    """Print the most memory resident after some reading and after ten times as much."""
    packed = Packed(path)
    slot = np.empty((128, *packed.shape), np.uint8)
    generator, most = np.random.default_rng(3), []
    for times in (1, 9):
        for _ in range(times * count // 128):
            packed.pictures(generator.integers(0, len(packed), 128), slot)
        most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"\nMemory after {count:,} pictures {most[0]:.0f} MB, after {10 * count:,} {most[1]:.0f} MB.")


def tokens(molecules: int, texts: list[str]) -> None:
    """Print how long the tokens of many molecules take to load, from JSON and from HDF5."""
    encoded = [encode(texts[n % len(texts)]) for n in range(molecules)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.json"
        with open(path, "w") as file:
            entries = ({"cid": n, "split": "train", "tokens": row.tolist()} for n, row in enumerate(encoded))
            file.write("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
        with h5py.File(Path(folder) / "tokens.h5", "w", libver="v110") as file:
            file.create_dataset("tokens", data=np.concatenate(encoded), chunks=(1 << 14,), maxshape=(None,))
            file.create_dataset("offsets", data=np.cumsum([0, *map(len, encoded)]), chunks=(1 << 14,), maxshape=(None,))
        start = time.perf_counter()
        json.loads(path.read_text())
        middle = time.perf_counter()
        with h5py.File(Path(folder) / "tokens.h5") as file:
            file["tokens"][:], file["offsets"][:]
        end = time.perf_counter()
    json_s, hdf5_s = middle - start, end - middle
    print(f"\nTokens of {molecules:,} molecules: {json_s:.1f} s from JSON, {hdf5_s:.2f} s from the copy in HDF5.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecules", type=Path, help="CID-SMILES.gz in place of the embedded molecules")
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rendering, packing = make(folder, options.molecules, options.pictures, Depiction(size=options.size))
        packed = Packed(folder / "images.h5")
        print(
            f"\nrender {rendering:.1f} s, pack {packing:.2f} s for {len(packed)} pictures: "
            f"packing takes {packing / rendering:.1%} of the drawing; "
            f"{(folder / 'images.h5').stat().st_size / len(packed):,.0f} bytes a picture in the file\n"
        )
        pictures = [np.ascontiguousarray(packed.picture(at)) for at in range(min(500, len(packed)))]
        format_table(pictures, options.rounds)
        read_table(folder / "images.h5", options.rounds, 4096)
        memory(folder / "images.h5", 4096)
        tokens(1_500_000, packed.text("smiles", range(min(1000, len(packed)))))


if __name__ == "__main__":
    main()
