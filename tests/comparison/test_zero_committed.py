"""Committed final figures, and the tables of the documentation that are made from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dashpot.comparison.zero_cells import read_grids
from dashpot.comparison.zero_findings import grid_findings
from dashpot.comparison.zero_table import markdown_summary
from dashpot.stats.differences import mean_interval

DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted((DOCS / "results").glob("autosgm*.jsonl"))


def test_committed_files_are_listed_in_the_documentation():
    page = (DOCS / "reproduce.md").read_text(encoding="utf-8")
    assert FILES
    assert all(f"results/{path.name}" in page for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_figures_are_complete_and_consistent(path):
    for grid in read_grids(path):
        assert set(grid.facts["versions"]) >= {"dashpot", "torch", "numpy", "python"}
        assert "/" not in (grid.facts["command"] or "").replace("results/", "")
        for cell in grid.cells:
            assert set(cell.status) <= {"done", "diverged"}
            mean = mean_interval(cell.score)
            expected = (mean.estimate, mean.low, mean.high)
            # figures have six significant digits
            assert (cell.mean, cell.low, cell.high) == pytest.approx(expected, rel=1e-5)
            assert cell.lr in grid.facts["rates"]


def test_table_in_the_documentation_is_made_from_the_committed_figures():
    text = (DOCS / "results.md").read_text(encoding="utf-8")
    marks = r"<!-- results\.md of reproduce autosgm --from docs/results/(.+?) -->\n\n(.*?)\n<!-- end of (.+?) -->"
    found = re.findall(marks, text, re.DOTALL)
    assert found
    for name, table, end in found:
        assert name == end
        grids = read_grids(DOCS / "results" / name)
        assert table == markdown_summary([grid_findings(grid) for grid in grids])
