"""Which modules of the package a module runs, directly or through others."""

import ast
from functools import cache
from pathlib import Path

HOME = Path(__file__).parents[1]  # the package


@cache
def imports(name: str) -> frozenset[str]:
    """The package's modules that one of its files imports itself, as dotted names below the package."""
    path = HOME / Path(*name.split(".")).with_suffix(".py")
    below = name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("ocsrflow.")):
            # Absolute where others run a file of the package by its path.
            base = below[: len(below) - node.level + 1] if node.level else []
            base += [part for part in (node.module or "").removeprefix("ocsrflow.").split(".") if part]
            module = HOME.joinpath(*base).with_suffix(".py").is_file()  # else a folder, of which modules are imported
            targets = [base] if module else [[*base, alias.name] for alias in node.names]
            found |= {".".join(target) for target in targets}
    return frozenset(found)


def files(*stages: str) -> list[Path]:
    """The source files that some modules run, relative to the package, sorted."""
    todo, seen = list(stages), set[str]()
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += imports(name)
    return sorted(Path(*name.split(".")).with_suffix(".py") for name in seen)
