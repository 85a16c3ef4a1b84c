"""The command ``ocsrflow read``: trained models read pictures from anywhere."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from cyclopts import Parameter
from cyclopts.validators import Number

from ..chem.tokenizer import tokenize
from ..config.methods import MethodName
from ..config.network import REFERENCE_MODELS
from ..config.precision import Precision
from ..config.reading import Reading
from ..depiction.plain import Picture
from ..network.attention_maps import draw_attention
from ..pictures.picture_files import find
from ..runtime.cli import explain
from ..runtime.errors import UserError
from ..runtime.files import whole
from ..runtime.gpu_lease import device_of, take
from ..runtime.progress import progress
from .ensemble_reader import EnsembleReader
from .find_models import find_models
from .load_pictures import Loaded, load_all
from .output_formats import PictureAnswer, try_output, write_answers
from .second_opinion import SecondOpinion


def read(
    pictures: list[Path],
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    models: Annotated[list[Path] | None, Parameter(consume_multiple=False)] = None,
    method: MethodName | None = None,
    with_: Annotated[list[Literal["osra"]] | None, Parameter(name="--with")] = None,
    attention: Path | None = None,
    beams: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 5,
    grammar: bool = True,
    precision: Precision = "auto",
    batch: Annotated[int, Parameter(validator=Number(gte=1))] = 64,
    gpus: Annotated[int | None, Parameter(validator=Number(gte=0, lte=1))] = None,
    threads: Annotated[int, Parameter(validator=Number(gte=1))] = 2,
) -> None:
    """Read pictures of molecules: SMILES with a confidence to sort by.

    Exit status 1 means that some pictures could not be read: a line says why for each; the others are in the output.

    Example: ``ocsrflow read pictures/ -o out.csv``

    Parameters
    ----------
    pictures
        Files and folders of PNG, JPEG, TIFF, GIF, WebP or BMP pictures, one molecule each.
    out
        Output, whose name ends in .csv, .json or .sdf: for each picture its file name (id), SMILES, confidence (the
        probability that the SMILES is exactly right), log-probability (natural logarithm), agreement (mean Tanimoto
        similarity with what each model read), distance (of a drawing of the SMILES from the picture, 0 to 1), whether
        it is valid (RDKit parses it) and complete (not cut off at the model's longest text; else its confidence is 0),
        a note where it shows several molecules, and an error where it could not be read.
    models
        Folder of a trained model (results/models/NAME), given again for each of several that answer together; or one
        file of an ensemble's members (results/ensembles/NAME.json); or a folder of results, which means its only
        ensemble, or else its only model. By default those that come with this repository, in results/reference.
    method
        How several models find one answer; by default rescored, if it is among the run's methods. rescored: of all
        their candidates the likeliest by the mean over the models;
        redrawn: the one whose drawing fits the picture best, for pictures drawn as those that the models learnt from;
        pairs: the pair rule of the slides; medoid: largest sum of similarities; votes: by probability.
    with_
        osra: ask the program OSRA about pictures whose answer has a confidence below 0.8, and take its answer where it
        finds another molecule; such an answer has no confidence.
    attention
        Folder for a picture of each, which shows where the first model looks while it writes each token.
    beams
        Texts that a model keeps in mind for a picture.
    grammar
        Whether texts may only go on as SMILES grammar allows.
    precision
        What the networks compute in; auto: bfloat16 where the device is faster with it, else float32.
    batch
        Pictures read together.
    gpus
        1 to read on a GPU, 0 to read on the CPU; by default on a GPU where there is one that can be used.
    threads
        Threads on a CPU, and processes that parse and draw candidates.

    Raises
    ------
    UserError
        Where the models do not go together, there is no picture, some could not be read, or the GPU that is asked for
        cannot be used.
    """
    try_output(out)
    if attention is not None:
        attention.mkdir(parents=True, exist_ok=True)
    osra = SecondOpinion(threads) if with_ else None
    trained = find_models(models or [REFERENCE_MODELS.parent])
    found = find(pictures)
    lease = take(gpus)
    device = torch.device(device_of(lease, required=gpus is not None))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    reading = Reading(beams=beams, grammar=grammar, precision=precision)
    reader = EnsembleReader(trained, method or trained.method(), reading, device, processes=threads)
    if not any(reader.calibrations):
        print("no calibration lies with these models: the confidence is their own probability", file=sys.stderr)
    elif len(reader.calibrations) > 1:
        print(
            f"no calibration of these models together by {reader.method}: the confidence is the mean of what each "
            "model would have alone",
            file=sys.stderr,
        )
    answers: list[PictureAnswer] = []
    try:
        with reader, progress(total=len(found), what="reading", unit="pictures") as bar:
            loaded = load_all(found, reader.depiction)
            while part := list(islice(loaded, batch)):
                answers += _read(reader, part, attention, osra, found.files)
                bar.update(len(part))
    finally:  # also where it is stopped
        if answers:
            write_answers(out, answers)
        if 0 < len(answers) < len(found):
            print(f"{len(answers)} of {len(found)} pictures were read; these are in {out}", file=sys.stderr)
    if cut_off := sum(own.answer is not None and not own.answer.complete for own in answers):
        print(f"{cut_off} answers were cut off at the longest text: confidence 0 (column complete)", file=sys.stderr)
    refused = [own for own in answers if own.answer is None]
    for own in refused:
        print(f"{own.id}: {own.error}", file=sys.stderr)
    if refused:
        raise UserError(
            f"{len(refused)} of {len(answers)} pictures could not be read, each named above; the others are in {out}"
        )
    print(f"{len(answers)} pictures read by {', '.join(reader.names)}: {out}")


def _read(
    reader: EnsembleReader,
    part: list[Loaded],
    attention: Path | None,
    osra: SecondOpinion | None,
    files: dict[str, Path],
) -> Iterator[PictureAnswer]:
    """The answers to some pictures, in their order."""
    readable = [(name, picture) for name, picture, _ in part if not isinstance(picture, str)]
    answers = {}
    if readable:
        stacked = np.stack([np.ascontiguousarray(picture.transpose(2, 0, 1)) for _, picture in readable])
        answers = dict(zip((name for name, _ in readable), reader.read(stacked), strict=True))
    if osra:
        answers = dict(zip(answers, osra.on({files[name]: own for name, own in answers.items()}).values(), strict=True))
    for name, picture, note in part:
        if isinstance(picture, str):
            yield PictureAnswer(name, None, error=picture)
            continue
        answer = answers[name]
        if attention is not None:
            _draw(reader, name, picture, answer.decision.text, attention)
        yield PictureAnswer(name, answer, note)


def map_path(folder: Path, name: str) -> Path:
    """Where the attention of a picture is drawn: below ``folder``, in folders as its own."""
    return folder / f"{name.lstrip('/').replace('..', '__')}.png"


def _draw(reader: EnsembleReader, name: str, picture: Picture, text: str, folder: Path) -> None:
    maps = reader.attention(picture, text)
    if maps is None:
        print(f"{name}: no attention, {text!r} is no SMILES", file=sys.stderr)
        return
    path = map_path(folder, name)
    title = f"{name}, read by {reader.names[0]}"
    image = draw_attention(picture, tokenize(text), maps, title=title, channel_order=reader.depiction.channel_order)
    try:
        with whole(path) as file:
            image.save(file, "PNG")
    except OSError as error:
        print(f"{name}: no attention, {explain(error) or error}", file=sys.stderr)
