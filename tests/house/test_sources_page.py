"""Every statement of the source documents on docs/sources.md names code and a test that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sources.md"
COLUMNS = ("row", "document", "statement", "shown", "computed", "tested", "verdict")
VERDICTS = ("holds", "does not hold", "undecided", "shown", "documented")
ROWS = {
    *range(1, 15),
    *range(17, 20),
    *(20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 37, 39, 40, 41, 45, 46, 51, 52),
    *range(53, 62),
    *(62, 63),
    *range(65, 69),
    *range(70, 78),
}
"""Numbers of the statements that the page must list."""


def table():
    """Return the rows of the page as dictionaries."""
    rows = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            assert len(cells) == len(COLUMNS), line
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


@cache
def definitions(path):
    """Return the qualified names of all functions and classes of a Python file."""
    found = set()

    def visit(node, prefix):
        for item in ast.iter_child_nodes(node):
            if isinstance(item, (ast.FunctionDef, ast.ClassDef)):
                name = f"{prefix}{item.name}"
                found.add(name)
                visit(item, f"{name}.")

    visit(ast.parse((ROOT / path).read_text(encoding="utf-8")), "")
    return found


def references(cell):
    """Return the (file, name) pairs of a cell, written as `file: name` or `file::name`."""
    pairs = re.findall(r"`([\w/.-]+\.(?:py|md)):{1,2} ?([\w.]+)?[^`]*`", cell)
    assert pairs, f"{cell!r} names no function"
    return pairs


def test_page_lists_every_statement():
    assert {int(row["row"]) for row in table()} >= ROWS


@pytest.mark.parametrize("column", ["computed", "tested"])
def test_named_functions_exist(column):
    missing = []
    for row in table():
        for path, name in references(row[column]):
            if not (ROOT / path).exists() or name not in definitions(path):
                missing.append(f"{row['row']}: {path}: {name}")
    assert missing == []


def test_named_tests_are_collected():
    for row in table():
        for path, name in references(row["tested"]):
            assert path.startswith("tests/"), path
            assert name.rpartition(".")[2].startswith("test_"), name


def test_every_row_links_to_documentation_and_has_a_verdict():
    for row in table():
        assert re.search(r"\]\(\S+\)", row["shown"]), row  # targets: test_project_files.py
        assert row["verdict"].startswith(VERDICTS), row["verdict"]
