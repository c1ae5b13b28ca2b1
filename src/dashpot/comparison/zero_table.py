"""Tables of grids of zeros, for a terminal and in Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from statistics import median

from dashpot.comparison.score_text import metric_text
from dashpot.comparison.zero_cells import Cell
from dashpot.comparison.zero_findings import GridFindings
from dashpot.comparison.zero_words import place_text, rate_text, sentences, summary, zero_text
from dashpot.runs.table import markdown_table, text_table
from dashpot.stats import Interval
from dashpot.stats.verdicts import decimals, number

WIDTH, MARKDOWN_WIDTH = 80, 100
LEGEND = (
    "±: 95 % interval of the mean over the seeds. In parentheses: the selected learning rate. Differences are those to "
    "the constant numerator 0 at the same zero, with joint 95 % intervals."
)


def markdown_summary(findings: Sequence[GridFindings]) -> str:
    """Return the tables and sentences of all workloads in Markdown."""
    parts = [_wrapped(summary(findings)), _wrapped(LEGEND)]
    for found in findings:
        parts += [f"**{place_text(found.grid)}**, {metric_text(found.rule)}", markdown_table(*table_cells(found))]
        parts.append(_bullets(found, MARKDOWN_WIDTH))
    return "\n\n".join(parts) + "\n"


def text_summary(findings: Sequence[GridFindings]) -> str:
    """Return the tables and sentences of all workloads as text."""
    parts = []
    for found in findings:
        parts += [f"{place_text(found.grid)}, {metric_text(found.rule)}", text_table(*table_cells(found))]
        parts.append(_bullets(found, WIDTH))
    return "\n\n".join([*parts, _wrapped(summary(findings), WIDTH)])


def _bullets(found: GridFindings, width: int) -> str:
    return "\n".join(_wrapped(f"* {line}", width, "  ") for line in sentences(found))


def _wrapped(text: str, width: int = MARKDOWN_WIDTH, indent: str = "") -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def table_cells(found: GridFindings) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table of a workload: scores, selected rates, differences and verdicts by zero."""
    grid = found.grid
    digits = score_decimals(grid.cells)
    header, columns = ["zero"], [[zero_text(zero) for zero in grid.zeros]]
    for numerator in grid.numerators:
        header.append(f"numerator {numerator}")
        columns.append([_score(grid.cell(numerator, zero), digits) for zero in grid.zeros])
    for numerator in dict.fromkeys(item.numerator for item in found.contrasts):
        header += [f"difference of {numerator}", "verdict"]
        own = [found.contrast(numerator, zero) for zero in grid.zeros]
        columns.append(["" if item is None else difference_text(item.difference, digits) for item in own])
        columns.append(["" if item is None else item.verdict.kind for item in own])
    return header, [list(row) for row in zip(*columns, strict=True)]


def score_decimals(cells: Sequence[Cell]) -> int:
    """Return the number of decimals: two significant digits of the median half-width, and three of the scores."""
    widths = [cell.high - cell.low for cell in cells if cell.high is not None and cell.low is not None]
    means = [abs(cell.mean) for cell in cells if cell.mean is not None]
    half = median(widths) / 2 if widths else 0.0
    return max(decimals(half) if half > 0 else 0, decimals(max(means, default=0.0), 3))


def _score(cell: Cell | None, digits: int) -> str:
    """Return mean, half-width and selected rate of a cell."""
    if cell is None or cell.mean is None:
        return "-"
    half = "" if cell.high is None or cell.low is None else f" ±{number((cell.high - cell.low) / 2, digits)}"
    rate = "" if cell.lr is None else f" ({rate_text(cell.lr)})"
    return f"{number(cell.mean, digits)}{half}{rate}"


def difference_text(interval: Interval | None, digits: int) -> str:
    """Return a signed difference with its limits.

    >>> difference_text(Interval(0.012, -0.001, 0.025), 3), difference_text(None, 3)
    ('+.012 (-.001 to .025)', '-')
    """
    if interval is None:
        return "-"
    text = f"{'+' if interval.estimate >= 0 else ''}{number(interval.estimate, digits)}"
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return text
    return f"{text} ({number(interval.low, digits)} to {number(interval.high, digits)})"
