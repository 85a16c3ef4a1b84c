"""What differs between two configurations, as lines that a person reads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from typing import Any

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
