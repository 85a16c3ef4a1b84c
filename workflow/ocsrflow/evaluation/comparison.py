"""What is reported of two runs that are compared: settings, scores, tests on the same pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import dumps
from typing import Any

from ..chem.paired_tests import Tested, holm, paired_mean, paired_share, same_pictures
from ..chem.scores import Score
from ..runtime.progress import progress
from .load_run import LoadedRun, Scored

WIDTH = 120  # characters of a line
CONTEXT = 10  # characters before a difference


@dataclass(frozen=True)
class Change:
    """One key that is not the same, in dotted path."""

    key: str
    change: str  # changed, added, removed, or order of a list of named items
    a: Any
    b: Any

    def line(self) -> str:
        """As a line; long values are cut, to where they differ."""
        a, b = _text(self.a), _text(self.b)
        if self.change in ("added", "removed"):
            value = b if self.change == "added" else a
            return f"{self.key}: {self.change}, {_cut(value, 0, WIDTH - len(self.key) - len(self.change) - 6)}"
        key = f"{self.key}: {'order ' if self.change == 'order' else ''}"
        room = max(20, (WIDTH - len(key) - 5) // 2)
        differ = next(
            (at for at, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b))
        )
        return f"{key}{_cut(a, differ, room)} → {_cut(b, differ, room)}"


def changes(a: Any, b: Any, key: str = "") -> Iterator[Change]:
    """What changed from ``a`` to ``b``, values as YAML and JSON have them.

    Items of lists are known by their ``name`` where all have one of their own, else by their place; a list of plain
    values is one value.
    """
    if _is_named(a) and _is_named(b):
        a, b = ({item["name"]: item for item in items} for items in (a, b))
        both = [[name for name in one if name in other] for one, other in ((a, b), (b, a))]
        if both[0] != both[1]:
            yield Change(key, "order", *both)
    elif _is_list(a) and _is_list(b) and any(isinstance(item, (dict, list)) for item in a + b):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if not (isinstance(a, Mapping) and isinstance(b, Mapping)):
        if dumps(a, default=str) != dumps(b, default=str):  # unlike ==, tells true from 1 and takes a NaN for itself
            yield Change(key, "changed", a, b)
        return
    for name in [*a, *(name for name in b if name not in a)]:
        path = f"{key}.{name}" if key else str(name)
        if name not in b:
            yield Change(path, "removed", a[name], None)
        elif name not in a:
            yield Change(path, "added", None, b[name])
        else:
            yield from changes(a[name], b[name], path)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_named(value: Any) -> bool:
    """Whether it is a list of items that are known by a name each."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return False
    names = [item.get("name") for item in value]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value.strip() else dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, differ: int, room: int) -> str:
    """At most ``room`` characters, those around position ``differ`` among them, on one line."""
    text = text.replace("\n", "\\n")
    if len(text) <= room:
        return text
    start = min(max(0, differ - CONTEXT), len(text) - room + 1)
    if start <= 1:
        return text[: room - 1] + "…"
    end = start + room - 2
    return "…" + text[start:end] + ("…" if end < len(text) else "")


TESTED = ("tanimoto", "exact")


@dataclass(frozen=True)
class Compared:
    """One reader's scores of one test set in A and B."""

    test_set: str
    reader: str
    images: tuple[int, int]
    common: int  # pictures in both
    scores: dict[str, tuple[Score | None, Score | None]]  # on all pictures of each
    tests: dict[str, Tested]  # tanimoto and exact, on the common ones; none where there are none
    seconds_per_image: tuple[float | None, float | None]
    device: tuple[str, str]

    @property
    def same(self) -> bool:
        """Whether A and B are of the same pictures."""
        return self.images == (self.common, self.common)


@dataclass(frozen=True)
class Comparison:
    """All that is reported of A and B."""

    a: dict[str, str]
    b: dict[str, str]
    configuration: list[Change]
    not_compared: str  # why the configuration is not
    scores: list[Compared]
    notes: list[str]  # what is in one only, or was not measured
    adjusted_for: int  # tests, those of them that Holm's p-values are adjusted for


def compared(a: LoadedRun, b: LoadedRun) -> Comparison:
    """Compare two runs."""
    both = [key for key in a.scores if key in b.scores]
    notes = _only("A", a, both) + _only("B", b, both)
    scores = []
    for test_set, reader in progress(both, what="testing", unit="readers", leave=False):
        in_a, in_b = a.scores[test_set, reader], b.scores[test_set, reader]
        missing = [f"in {n} ({s.facts['missing']})" for n, s in (("A", in_a), ("B", in_b)) if s.facts.get("missing")]
        if missing:
            notes.append(f"{test_set}/{reader}: not measured {' nor '.join(missing)}")
        else:
            scores.append(_compared(test_set, reader, in_a, in_b))
    scores, tests = _adjusted(scores)
    settings, why = _settings(a, b)
    return Comparison(
        a={"what": a.what, **a.origin},
        b={"what": b.what, **b.origin},
        configuration=settings,
        not_compared=why,
        scores=scores,
        notes=notes,
        adjusted_for=tests,
    )


def _only(side: str, own: LoadedRun, paired: Sequence[tuple[str, str]]) -> list[str]:
    names = ["/".join(key) for key in own.scores if key not in paired]
    return [f"only in {side}: {', '.join(names)}"] if names else []


def _settings(a: LoadedRun, b: LoadedRun) -> tuple[list[Change], str]:
    """What changed in the configuration, or why it is not compared."""
    lacking = [name for name, side in (("A", a), ("B", b)) if side.configuration is None]
    if lacking:
        return [], f"there is no experiment.yaml in {' and '.join(lacking)}"
    return list(changes(a.configuration, b.configuration)), ""


def _compared(test_set: str, reader: str, a: Scored, b: Scored) -> Compared:
    common = same_pictures(a.images, b.images)
    values = [common[f"{score}_{side}"].to_numpy() for score in TESTED for side in "ab"]
    facts = (a.facts, b.facts)
    names = dict.fromkeys(name for own in facts for name in own["scores"])
    return Compared(
        test_set=test_set,
        reader=reader,
        images=(len(a.images), len(b.images)),
        common=len(common),
        scores={name: (_score(a.facts, name), _score(b.facts, name)) for name in names},
        tests={"tanimoto": paired_mean(*values[:2]), "exact": paired_share(*values[2:])} if len(common) else {},
        seconds_per_image=(_seconds(a.facts), _seconds(b.facts)),
        device=(str(a.facts.get("device", "")), str(b.facts.get("device", ""))),
    )


def _score(facts: dict[str, Any], name: str) -> Score | None:
    own = facts["scores"].get(name)
    return Score(own["value"], own["low"], own["high"]) if own else None


def _seconds(facts: dict[str, Any]) -> float | None:
    seconds = facts.get("seconds_per_image")
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _adjusted(scores: list[Compared]) -> tuple[list[Compared], int]:
    """The scores with Holm's p-values, and how many tests these are adjusted for.

    All tests that are shown are one family: who looks through dozens of readers for a small p finds one by chance.
    A reader that answers every picture as before can have no p but 1, and does not count (Tarone 1990): in most reruns
    few readers are new.
    """
    places = [(at, name) for at, own in enumerate(scores) for name, test in own.tests.items() if test.differing]
    tests = [dict(own.tests) for own in scores]
    for (at, name), p in zip(places, holm([tests[at][name].p for at, name in places]), strict=True):
        tests[at][name] = replace(tests[at][name], p_holm=p)
    return [replace(own, tests=tested) for own, tested in zip(scores, tests, strict=True)], len(places)
