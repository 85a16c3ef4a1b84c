"""OSRA, asked about the pictures that trained models are not sure of."""

import math
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..chem.similarity import ParsedMolecule, parse_all, parsed_similarity
from ..ensemble.voting_methods import Decision
from ..evaluation.osra import INSTALL, ask
from ..pictures.originals import as_png
from ..pictures.picture_files import read_pixels
from ..runtime.errors import UserError
from .ensemble_reader import Answer

SURE = 0.8  # confidence from which a model's answer stands; below, OSRA is right more often on scans and patents
SECONDS = 30.0  # limit of a picture


class SecondOpinion:
    """OSRA beside some trained models."""

    def __init__(self, processes: int) -> None:
        """Look for the program, of which so many are to run at a time.

        Raises
        ------
        UserError
            Where it is not installed.
        """
        program = shutil.which("osra")
        if program is None:
            raise UserError(INSTALL)
        self._program, self._processes = program, processes

    def on(self, answers: dict[Path, Answer]) -> dict[Path, Answer]:
        """The answers to some pictures, by file, with OSRA's where the models are not sure and it finds a molecule.

        An answer of OSRA's has no confidence (NaN): nobody has learnt how far to trust it. Where it finds the models'
        molecule, their answer stays.
        """
        unsure = [path for path, answer in answers.items() if answer.confidence < SURE]
        with ThreadPoolExecutor(self._processes) as pool:
            texts = dict(zip(unsure, pool.map(self._ask, unsure), strict=True))
        answered = {text for path in unsure for text in answers[path].members.values()}
        molecules = parse_all({*texts.values(), *answered}, processes=self._processes, what="parsing what osra read")
        found = dict(answers)
        for path, text in texts.items():
            found[path] = _with_osra(answers[path], text, molecules)
        return found

    def _ask(self, path: Path) -> str:
        with tempfile.NamedTemporaryFile(prefix="ocsrflow-osra-", suffix=".png") as file:
            file.write(as_png(read_pixels(path)))
            file.flush()
            return ask(self._program, Path(file.name), SECONDS).text


def _with_osra(answer: Answer, text: str, molecules: dict[str, ParsedMolecule | None]) -> Answer:
    """The models' answer, or OSRA's where that is another molecule."""
    members = answer.members | {"osra": text}
    own, theirs = molecules[text], molecules.get(answer.decision.text)
    if own is None or (theirs is not None and theirs.canonical == own.canonical):
        return replace(answer, members=members)
    read = _parsed(members.values(), molecules)
    agreement = math.fsum(parsed_similarity(own, other) for other in read) / len(members)
    decision = Decision(text, None, agreement, math.nan, math.nan)
    return replace(answer, decision=decision, valid=True, confidence=math.nan, members=members, complete=True)


def _parsed(texts: Iterable[str], molecules: dict[str, ParsedMolecule | None]) -> list[ParsedMolecule]:
    return [found for text in texts if (found := molecules[text]) is not None]
