"""Stage ``pack``: one HDF5 file of a data set's pictures, with tokens and vocabulary as JSON."""

import hashlib
import json
import resource
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from .cli import run
from .errors import UserError
from .files import whole, write_json
from .packed import SPLITS, create, read_chunk, write_chunk
from .progress import progress
from .rejects import write_rejects
from .settings.depiction import Depiction
from .tokenizer import END, INDEX, PAD, START, VOCABULARY, encode


def pack(
    sample: Path,
    folder: Path,
    *,
    shards: int,
    out: Path,
    tokens: Path,
    vocabulary: Path,
    rejects: Path,
    render_rejects: Path | None = None,
) -> None:
    """Put the shards of a data set into one file, in the order of its sample.

    The pictures are copied as they are, compressed. A molecule that has no picture or no tokens is left out and
    counted.

    Parameters
    ----------
    sample
        Parquet file of the stage ``sample``.
    folder
        Folder with the HDF5 files of the stage ``render``, called 0.h5, 1.h5 and so on.
    shards
        How many of them there are.
    out
        HDF5 file, laid out as :mod:`ocsrflow.packed` says.
    tokens
        JSON file: cid, split and tokens of every picture, in the file's order.
    vocabulary
        JSON file: token to number.
    rejects
        CSV for what was left out: reason, count, example.
    render_rejects
        Folder with the rejects of the stage ``render`` (render-0.csv and so on), for the reasons.

    Raises
    ------
    UserError
        When a shard is damaged, or nothing is left to pack.
    """
    rows = pd.read_parquet(sample)
    try:
        _allow_open_files(shards)
        files = [h5py.File(folder / f"{shard}.h5") for shard in range(shards)]
        pictures = [file["images"] for file in files]
        place = {int(cid): (shard, at) for shard, file in enumerate(files) for at, cid in enumerate(file["cid"][:])}
        depiction = Depiction.model_validate_json(str(files[0].attrs["depiction"]))
    except FileNotFoundError:
        raise
    except (OSError, KeyError) as error:
        raise UserError(f"a shard in {folder} is damaged ({error}); remove it and run again") from None
    reasons = _reasons(render_rejects)
    encoded: list[np.ndarray] = []
    chosen: list[int] = []
    refused: list[tuple[str, str]] = []
    for number, (cid, smiles) in enumerate(zip(rows["cid"], rows["smiles"], strict=True)):
        if cid not in place:
            refused.append(reasons.get(cid, ("not_drawn", smiles)))
            continue
        try:
            encoded.append(encode(smiles))
        except ValueError:
            refused.append(("no_tokens", smiles))
            continue
        chosen.append(number)
    rows = rows.iloc[chosen]
    if rows.empty:
        raise UserError(f"{out.parent.name}: no molecule has both a picture and tokens; see {rejects.parent}")
    split = rows["split"].map(SPLITS.index).to_numpy(np.uint8)
    flat = np.concatenate(encoded)
    digest = hashlib.blake2b(digest_size=16)
    with whole(out) as part, h5py.File(part, "w", libver="v110") as file:
        images = create(file, len(rows), depiction)
        cids = rows["cid"].to_numpy(np.int64)
        for at, cid in enumerate(progress(cids, what=f"packing {out.parent.name}", unit="pictures")):
            shard, position = place[int(cid)]
            chunk = read_chunk(pictures[shard], position)
            digest.update(chunk)
            write_chunk(images, at, chunk)
        file["cid"] = cids
        for column in ("smiles", "canonical"):
            file.create_dataset(column, data=rows[column].to_numpy(object), dtype=h5py.string_dtype())
        file["split"] = split
        file["tokens"] = flat
        file["offsets"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        file.attrs["splits"] = SPLITS
        file.attrs["vocabulary"] = json.dumps(VOCABULARY)
        for values in (cids, split, flat):
            digest.update(values.tobytes())
        file.attrs["digest"] = digest.hexdigest()
    _write_tokens(tokens, rows, encoded)
    write_json(vocabulary, {"pad": PAD, "start": START, "end": END, "tokens": INDEX})
    write_rejects(rejects, refused)
    print(f"{out.parent.name}: {len(rows)} pictures packed, {len(refused)} left out")


def _allow_open_files(count: int) -> None:
    """Raise this process's limit of open files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count + 100:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reasons(folder: Path | None) -> dict[int, tuple[str, str]]:
    """Why molecules have no picture, by CID: reason and example."""
    if folder is None:
        return {}
    tables = [pd.read_csv(path, keep_default_na=False) for path in sorted(folder.glob("render-*.csv"))]
    return {int(r.cid): (str(r.reason), str(r.example)) for t in tables for r in t.itertuples()}  # type: ignore[arg-type]


def _write_tokens(path: Path, rows: pd.DataFrame, encoded: list[np.ndarray]) -> None:
    """One molecule a line, so that the file can be read by eye and in a streaming way."""
    with whole(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write("[\n")
        for number, (cid, split, numbers) in enumerate(zip(rows["cid"], rows["split"], encoded, strict=True)):
            line = json.dumps({"cid": int(cid), "split": split, "tokens": numbers.tolist()})
            file.write((",\n" if number else "") + line)
        file.write("\n]\n")


if __name__ == "__main__":
    run(pack)
