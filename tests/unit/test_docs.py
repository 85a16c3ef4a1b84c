"""The documentation: its links, commands and configurations are real, the table of settings is the generated one."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ocsrflow.__main__ import COMMANDS
from ocsrflow.config import experiment
from ocsrflow.config.settings_table import settings
from ocsrflow.runtime.errors import UserError
from snakemake.utils import update_config
from support.checkout import REPOSITORY

PACKAGE = REPOSITORY / "workflow/ocsrflow"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
REFERENCE = [*sorted((REPOSITORY / "results/reference").glob("*.md"))]
SHIPPED = [None, *sorted((REPOSITORY / "workflow/profiles").glob("*/experiment.yaml"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks and pieces of code."""
    return re.sub(r"`[^`\n]*`", "`", FENCE.sub("", page.read_text()))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings: lower case, no punctuation, hyphens for spaces."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", page.read_text()), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = 0
        while (own := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(own)
    return found


def blocks(*languages: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text()):
            if language in languages:
                yield page, text


def test_the_table_of_settings_is_the_generated_one() -> None:
    expected = settings(experiment.Config.model_json_schema())
    found = (REPOSITORY / "docs/settings.md").read_text()
    assert found == expected, "run: ocsrflow config --settings > docs/settings.md"


def test_every_setting_is_in_the_table() -> None:
    text = (REPOSITORY / "docs/settings.md").read_text()
    schema = experiment.Config.model_json_schema()
    for own in schema["$defs"].values():
        for key, value in own["properties"].items():
            rows = [line for line in text.splitlines() if line.startswith(f"| `{key}` |")]
            assert rows, key
            if meaning := value.get("description"):
                assert any(meaning.replace("<", "&lt;") in row.replace("\\|", "|") for row in rows), key


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_relative_to(REPOSITORY), target
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), f"{target}: there are {sorted(anchors(found))}"


def test_the_pages_have_what_is_looked_for() -> None:
    """So that the tests of single pages, many of which have none of a kind, look at something."""
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(LINK.findall(text)) > 50
    assert len(re.findall(r"^make \w+", text, re.MULTILINE)) > 5
    assert len(re.findall(r"^ocsrflow \w+", text, re.MULTILINE)) > 5
    assert len(re.findall(r"`(?:workflow|tests|envs)/[\w./-]+`", text)) > 5


def test_every_page_is_in_the_index() -> None:
    index = REPOSITORY / "docs/README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in LINK.findall(prose(index))}
    assert set(PAGES) - {index} <= linked


@pytest.mark.parametrize("page", [*PAGES, *REFERENCE], ids=name)
def test_commands_are_there(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    # In code alone: a sentence may make something, too.
    code = "\n".join([*(body for _, body in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])
    named = re.findall(r"^(?:\$ )?make ((?:[A-Za-z-]+(?:=\S+)? ?)+)", code, re.MULTILINE)
    for target in {word for words in named for word in words.split() if "=" not in word}:
        assert target in targets, f"make {target}"
    assert not re.search(r"-m ocsrflow\b", text)
    for command in set(re.findall(r"^(?:\$ )?ocsrflow (\w+)", code, re.MULTILINE)):
        assert command in COMMANDS or command == "COMMAND", f"ocsrflow {command}"
    for path in set(re.findall(r"`((?:workflow|tests|envs)/[\w./-]+)`", text)):
        assert (REPOSITORY / path).exists(), path
    for path in set(re.findall(r"(?:--workflow-profile|pytest|python) ((?:workflow|tests)/[\w./-]+)", text)):
        assert (REPOSITORY / path).exists(), path


def source(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


@cache
def words(module: str) -> set[str]:
    """The options that a module's functions may have: names of their arguments, and names given in so many words."""
    tree = ast.parse(source(module).read_text())
    found = {"--help"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            found |= {f"--{argument.arg.replace('_', '-')}" for argument in [*node.args.args, *node.args.kwonlyargs]}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("-"):
            found.add(node.value)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_and_commands_of_modules_are_there(page: Path) -> None:
    for command, rest in re.findall(r"(?:^|`)ocsrflow (\w+)([^`\n#|]*)", page.read_text(), re.MULTILINE):
        for option in re.findall(r"(?<= )--?[a-z][a-z-]*", rest):
            assert option in words(COMMANDS[command][0]), f"{command} {option}"


def merged(base: Path | None, block: dict[str, Any]) -> dict[str, Any]:
    """A shipped configuration with a block in it: entries of lists are added, or take the place of their namesakes."""
    whole: dict[str, Any] = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    if base is not None:
        update_config(whole, yaml.safe_load(base.read_text()))
    for key, value in block.items():
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            own = {item["name"]: item for item in [*whole.get(key, []), *value]}
            whole[key] = list(own.values())
        else:
            update_config(whole, {key: value})
    return whole


def test_configurations_are_valid() -> None:
    seen = 0
    for page, text in blocks("yaml"):
        if text.startswith("# workflow/profiles/"):  # of Snakemake's own options
            continue
        errors = []
        for base in SHIPPED:
            try:
                experiment.load(merged(base, yaml.safe_load(text)))
                break
            except UserError as error:
                errors.append(f"{base or 'config.yaml'}: {error}")
        else:
            pytest.fail(f"{name(page)}:\n{text}\n" + "\n".join(errors))
        seen += 1
    assert seen > 8


def test_pieces_of_python_compile() -> None:
    pieces = [*blocks("python")]
    assert pieces
    for page, text in pieces:
        compile(text if not text.startswith('"') else f"{{{text}}}", name(page), "exec")


def test_no_address_or_path_of_ours() -> None:
    for page in PAGES:
        text = page.read_text()
        assert not re.findall(r"(?<![\w.~/)])/(?:work|home|root|tmp|srv|opt)\b", text), page
        hosts = {match.lower() for match in re.findall(r"https?://([\w.-]+)", text)}
        assert hosts <= {"127.0.0.1", "mlflow.example.org", "snakemake.readthedocs.io"}, page
