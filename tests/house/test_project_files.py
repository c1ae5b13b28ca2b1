"""Project files state the same version, refer to existing paths, and contain a complete layout table."""

import re
from collections import Counter
from pathlib import Path

import pytest
from test_import_directions import LAYERS

import dashpot

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "src" / "dashpot")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("file", "pattern"), [("pyproject.toml", r'^version = "(.+)"$'), ("CITATION.cff", r"^version: (.+)$")]
)
def test_version_matches_the_package(file, pattern):
    assert re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE) == [dashpot.__version__]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_and_sections_exist(page):
    for link in re.findall(r"\]\((?!http)([^)\s]+)\)", page.read_text()):
        file, _, section = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        headings = re.findall(r"(?m)^#+ (.+)$", target.read_text()) if section else []
        assert not section or section in map(anchor, headings), link


def test_documented_commands_name_no_folders_of_one_machine():
    files = [*PAGES, *(ROOT / "docs").glob("results/*.jsonl")]
    assert not {file.name for file in files if re.search(r"--(data-dir|out)[ =]+/", file.read_text())}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "AGENTS.md"])
def test_named_files_exist(page):
    prose = re.sub(r"(?ms)^```.*?^```", "", (ROOT / page).read_text())
    named = {path for path in re.findall(r"`([\w./-]+(?:\.py|\.md|\.json|/))`", prose) if "/" in path}
    assert not [path for path in sorted(named) if not any((folder / path).exists() for folder in FOLDERS)]


def test_layout_table_lists_every_package():
    table = (ROOT / "CONTRIBUTING.md").read_text()
    assert not [name for name in sorted(set().union(*LAYERS)) if not re.search(rf"`{name}(?:\.py|/)`", table)]


def test_basenames_of_test_files_are_unique():
    """Pytest imports test files by basename, and fails to collect the second of two."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
