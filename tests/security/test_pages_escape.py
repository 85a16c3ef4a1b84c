"""Texts from elsewhere are texts: on pages, in figures, on a terminal and in a spreadsheet.

Whole pages made of nothing but scripts are looked at in tests/browser/test_pages.py (the report) and
tests/unit/report/test_browse.py (data sets).
"""

import ast
import csv
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jinja2.nodes
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocsrflow.pictures.picture_files import find
from ocsrflow.reader.output_formats import PictureAnswer, write_answers
from ocsrflow.report import figures
from ocsrflow.report.html import template
from ocsrflow.runtime.csv_tables import FORMULA, write_csv, write_rejects
from ocsrflow.runtime.errors import UserError, visible
from rdkit import Chem
from support.checkout import REPOSITORY

EVIL = "</text></svg><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & ]]>"
ESCAPES = "\x1b[2J\x1b]0;pwned\x07\x9b31m\r\x08\u202egnp.exe"
FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x"&A1)')
TEMPLATES = REPOSITORY / "workflow/ocsrflow/report/templates"


def test_templates_escape_everything_but_our_own_figures() -> None:
    pages = sorted(TEMPLATES.glob("*.html"))
    assert {"report.html", "browse.html"} <= {path.name for path in pages}
    for path in pages:
        environment = template(path.name).environment
        assert environment.autoescape is True
        tree = environment.parse(path.read_text())
        unescaped = [node for node in tree.find_all(jinja2.nodes.Filter) if node.name in ("safe", "forceescape")]
        assert len(unescaped) == (path.name == "parts.html")  # drawing.svg, see the next test
        assert not list(tree.find_all(jinja2.nodes.ScopedEvalContextModifier))  # {% autoescape false %}
    for page in ("report.html", "browse.html"):  # where something were overlooked, browsers run nothing
        assert (
            "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in (TEMPLATES / page).read_text()
        )
    modules = [*REPOSITORY.glob("workflow/ocsrflow/**/*.py")]
    assert len(modules) > 100
    for path in modules:
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "Markup" not in names, path


def test_figures_hold_names_as_text() -> None:
    rows = pd.DataFrame({"length": [1, 2, 3], "count": [4, 5, 6]})
    drawing = figures.lengths({EVIL: rows, "other": rows}, title=EVIL, caption=EVIL)
    root = ElementTree.fromstring(drawing.svg)  # our own, just made
    tags = {str(node.tag).rsplit("}", 1)[-1] for node in root.iter()}
    assert not tags & {"script", "img", "foreignObject", "a"}
    assert not [name for node in root.iter() for name in node.attrib if name.lower().startswith("on")]
    shown = ["".join(node.itertext()) for node in root.iter()]
    assert EVIL in shown
    page = template("parts.html").module.figure(drawing)  # type: ignore[attr-defined]
    assert "<script" not in page.replace(drawing.svg, "")


@given(st.text())
def test_no_text_drives_a_terminal(text: str) -> None:
    shown = visible(text)
    assert all(character.isprintable() or character in "\t\n" or ord(character) > 0x9F for character in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert str(UserError(text)) == shown
    if text.isprintable():
        assert shown == text


def test_a_hostile_file_name_is_reported_as_text(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    table = tmp_path / f"table{ESCAPES}.csv"
    table.write_text(f"file_name,SMILES\n{ESCAPES}.png,C\n")
    words = ["--form", "pictures", "--pictures", str(tmp_path / "pictures"), "--max-length", "9"]
    words += [word for name in ("kept", "lengths", "rejects") for word in (f"--{name}", str(tmp_path / name))]
    run = subprocess.run(
        [sys.executable, "-m", "ocsrflow", "filter", str(table), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "no picture" in run.stderr
    assert not set(run.stderr) & set(ESCAPES[:1] + "\x07\x9b\r\x08\u202e")
    assert r"\x1b[2J\x1b]0;pwned\x07\x9b31m\r\x08\u202egnp.exe" in run.stderr


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    for name in ("table", "rejects"):
        path = tmp_path / f"{name}.csv"
        if name == "table":
            write_csv(path, ("id", "value", "text"), [(1, -0.5, text) for text in FORMULAS])
        else:
            write_rejects(path, [(f"reason {at}", text) for at, text in enumerate(FORMULAS)])
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        assert [row[-1][0] for row in rows] == ["'"] * len(FORMULAS)
        assert [row[-1].lstrip("'")[0] for row in rows] == ["\\" if f[0] == "\r" else f[0] for f in FORMULAS]
        assert name == "rejects" or {row[1] for row in rows} == {"-0.5"}  # a number stays one


def test_a_picture_called_like_a_formula_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("=1+1.png", "@x.png", "-x.png", "+x.png", "plain.png")
    for name in names:
        Path(name).touch()
    found = find([Path()])
    assert sorted(found.files) == sorted(["./=1+1.png", "./@x.png", "./-x.png", "./+x.png", "plain.png"])
    assert all(os.path.samefile(id_, path) for id_, path in found.files.items())
    write_answers(tmp_path / "out.csv", [PictureAnswer(id_, None, error="why") for id_ in found.files])
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert not [row for row in rows if row.startswith((*FORMULA, "'"))]


def test_no_valid_smiles_begins_like_a_formula() -> None:
    """So that the apostrophe changes no molecule."""
    for begin in FORMULA[:4]:
        for rest in ("C", "CC", "[NH4+]", "c1ccccc1", "1", "[C@H](F)Cl"):
            assert Chem.MolFromSmiles(begin + rest) is None
