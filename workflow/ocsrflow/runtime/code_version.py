"""A short hash of the code that decides what a stage makes: Snakemake runs a stage again when it changes.

It is worked out from the syntax trees of the stage's module and of all modules that it imports, directly or through
others. Comments, layout, docstrings, help texts and the messages of a ``UserError`` do not count. Neither do
``runtime`` and ``tracking``, on which no result depends.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

HOME = Path(__file__).parents[1]  # the package
NOT_FOLLOWED = ("runtime", "tracking")
ERRORS = ("UserError", "TrainingFailed")
# Calls, and which of their keyword arguments are texts for a reader.
HELP_TEXTS = {"Field": "description", "Parameter": "help", "add_argument": "help", "ArgumentParser": "description"}


@cache
def code_version(*modules: str, home: Path = HOME) -> str:
    """Twelve hexadecimal digits for the code of some modules, as dotted names below the package in the folder ``home``.

    Modules of ``runtime`` and ``tracking`` count only where they are named here; what is imported within ``tracking``
    counts with them.
    """
    digest = hashlib.sha256()
    for name in sorted(reached(*modules, home=home)):
        digest.update(f"{name} {_digest(home, name)}\n".encode())
    return digest.hexdigest()[:12]


def reached(*modules: str, home: Path = HOME, everything: bool = False) -> set[str]:
    """Some modules and all that they import, directly or through others; ``everything``: in all folders."""
    todo, found = list(modules), set[str]()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            folder = name.partition(".")[0]
            for other in _imports(home, name):
                other_folder = other.partition(".")[0]
                if everything or other_folder not in NOT_FOLLOWED or other_folder == folder == "tracking":
                    todo.append(other)
    return found


def syntax(source: str) -> str:
    """The syntax tree of some source as a text, without comments, docstrings, help texts and error messages.

    In place of ``ast.dump``, which writes empty fields in some versions of Python and not in others: an upgrade would
    run everything again.
    """
    return _text(ast.parse(source))


def _text(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(_text(item) for item in node if not _is_docstring(item))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc.func) in ERRORS:
        return "Raise(UserError)"
    fields = [(name, value) for name, value in ast.iter_fields(node) if value is not None and value != []]
    if isinstance(node, ast.Call):
        left_out = HELP_TEXTS.get(_name(node.func))
        keywords = [keyword for keyword in node.keywords if left_out is None or keyword.arg != left_out]
        fields = [("func", node.func), ("args", node.args), ("keywords", keywords)]
    return f"{type(node).__name__}({','.join(f'{name}={_text(value)}' for name, value in fields)})"


def _is_docstring(node: Any) -> bool:
    """Whether a statement is a text alone, which does nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _name(function: ast.expr) -> str:
    """What is called: ``Field`` of ``Field(...)`` and of ``pydantic.Field(...)``."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@cache
def _tree(home: Path, name: str) -> ast.Module:
    path = _file(home, name)
    if path is None:
        raise ModuleNotFoundError(f"no module {name} in {home}")
    return ast.parse(path.read_text(encoding="utf-8"))


def _file(home: Path, name: str) -> Path | None:
    """The file of a module or of a package; None where there is neither."""
    path = home.joinpath(*name.split(".")) if name else home
    candidates = [path / "__init__.py", *([path.with_suffix(".py")] if name else [])]
    return next((file for file in candidates if file.is_file()), None)


@cache
def _digest(home: Path, name: str) -> str:
    return hashlib.sha256(_text(_tree(home, name)).encode()).hexdigest()


@cache
def _imports(home: Path, name: str) -> frozenset[str]:
    """Modules of the package that a module imports itself, anywhere in it, and the packages that all of them lie in."""
    found: set[str] = set()
    for imported in [name, *_imported_names(home, name)]:
        parts = imported.split(".")
        # The last part may be what is imported from a module. "" is the package itself.
        prefixes = [".".join(parts[:length]) for length in range(len(parts) + 1)]
        found |= {prefix for prefix in prefixes if _file(home, prefix) is not None}
    return frozenset(found)


def _imported_names(home: Path, name: str) -> Iterator[str]:
    """Dotted names below the package that a module imports: modules, or what is in them."""
    path = _file(home, name)
    is_package = path is not None and path.name == "__init__.py"
    package = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(_tree(home, name)):
        if isinstance(node, ast.Import):
            absolute = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = [home.name, *(part for part in package if part)]
                base = ".".join([*above[: len(above) - node.level + 1], *([base] if base else [])])
            absolute = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in absolute:
            if target.partition(".")[0] == home.name:
                yield target.partition(".")[2]
