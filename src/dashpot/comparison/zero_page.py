"""Page of the grids of zeros of all workloads."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from dashpot.comparison.page.number_text import with_minus
from dashpot.comparison.score_text import metric_text
from dashpot.comparison.zero_cells import Cell, Grid
from dashpot.comparison.zero_figures import grid_figure
from dashpot.comparison.zero_findings import GridFindings, overfitting
from dashpot.comparison.zero_table import table_cells
from dashpot.comparison.zero_words import numerator_text, place_text, rate_text, sentences, summary, zero_text
from dashpot.figures import Page, Section, html_table, paragraphs, write_page
from dashpot.figures.tags import slug
from dashpot.stats.verdicts import decimals, number
from dashpot.utils.format import duration

CLAIM = (
    "Published claim: on CIFAR-10 (ViT, ResNet), WikiText-103 (GPT-2) and Shakespeare's characters (GPT), the "
    "partial-correlation numerator mostly outperforms the constant numerator, which is that of Adam, across several "
    "zeros of the gradient filter."
)
PROTOCOL = (
    "The filter has the pole .9 and one of the zeros below; without a filter, the pole is 0. All methods of a workload "
    "share the learning rates, among which validation data select with one seed that is not judged; runs of a seed "
    "share weights and batches. Scores are those after the last step."
)
NOTE = (
    "Dots: means over the seeds; lines: 95 % intervals, for differences jointly for all of the workload. Grey band: "
    "differences within the margin of the task, which are irrelevant."
)


def write_grid_page(findings: Sequence[GridFindings], path: Path, *, command: str | None = None) -> Path:
    """Write the page of all workloads as one HTML file, atomically.

    Args:
        findings: Findings on the workloads, at least one.
        path: Path of the file.
        command: Command that produces the page.

    Raises:
        ArgumentError: If jinja2 or matplotlib is not installed.
        RunError: If the file cannot be written.
    """
    return write_page(grid_page(findings, command), path)


def grid_page(findings: Sequence[GridFindings], command: str | None = None) -> Page:
    """Return the page of all workloads."""
    sections = [Section("Claim and protocol", paragraphs(CLAIM, PROTOCOL), key="claim")]
    for found in findings:
        sections += _sections(found)
    sections.append(Section("Settings and software", _settings([found.grid for found in findings]), key="settings"))
    return Page(
        "Partial-correlation numerator against a constant one, by the zero of the filter",
        with_minus(summary(findings)),
        command or "",
        sections,
    )


def _sections(found: GridFindings) -> Iterator[Section]:
    grid = found.grid
    key = slug(f"{grid.workload}-{grid.tier}")
    header, rows = table_cells(found)
    table = html_table(header, [[with_minus(cell) for cell in row] for row in rows])
    title = f"{place_text(grid)}"
    text = paragraphs(f"{grid.facts['description'].capitalize()}.".replace("..", "."))
    yield Section(title, text, grid_figure(found), f"{metric_text(found.rule).capitalize()}. {NOTE}", key)
    yield Section(f"{grid.workload}: figures", table + _list(sentences(found)), key=f"{key}-figures")
    yield Section(f"{grid.workload}: overfitting", _overfitting(grid), key=f"{key}-overfitting")


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(with_minus(line))}</li>" for line in lines) + "</ul>"


def _overfitting(grid: Grid) -> str:
    """Return a table of the overfitting at each zero, for each numerator."""
    header, columns = ["zero"], [[zero_text(zero) for zero in grid.zeros]]
    for numerator in grid.numerators:
        header += [
            f"numerator {numerator}: last worse than best",
            "best at step",
            f"{grid.facts['split']} minus training loss",
        ]
        cells = [grid.cell(numerator, zero) for zero in grid.zeros]
        columns += map(list, zip(*(_overfitting_cells(grid, cell) for cell in cells), strict=True))
    text = f"Means over the seeds. The validation {grid.facts['metric']} after the last step is compared with the best "
    rows = [[with_minus(cell) for cell in row] for row in zip(*columns, strict=True)]
    return paragraphs(text + "during the run.") + html_table(header, rows)


def _overfitting_cells(grid: Grid, cell: Cell | None) -> tuple[str, str, str]:
    found = None if cell is None else overfitting(grid, cell)
    if found is None:
        return "-", "-", "-"
    lost, gap = (number(value, decimals(abs(value))) for value in (found.lost, found.gap))
    return lost, f"{found.step:.0f}", gap


def _settings(grids: Sequence[Grid]) -> str:
    """Return the settings of each workload as a table, and software and machine as text."""
    header = ["workload", "tier", "task options", "parameters", "steps", "seeds", "shared rates", "training time"]
    header.append("first optimizer")
    rows = [
        [
            *(grid.workload, grid.tier, _options(grid), str(grid.facts["parameters"]), str(grid.facts["steps"])),
            ", ".join(map(str, grid.facts["seeds"])),
            ", ".join(map(rate_text, grid.facts["rates"])),
            f"{duration(grid.facts['cpu_s'])} of CPU time",
            grid.facts["call"],
        ]
        for grid in grids
    ]
    numerators = sorted({numerator for grid in grids for numerator in grid.numerators})
    names = "; ".join(f"{numerator}: {numerator_text(numerator)}" for numerator in numerators)
    software = {_software(grid) for grid in grids}
    return paragraphs(f"Numerators: {names}.", *sorted(software)) + html_table(header, rows)


def _options(grid: Grid) -> str:
    """Return the options of the task, without the tier, which has its own column."""
    options = {name: value for name, value in grid.facts.get("task_options", {}).items() if name != "tier"}
    return (
        ", ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items())
        or "-"
    )


def _software(grid: Grid) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in grid.facts["versions"].items())
    machine = grid.facts["machine"]
    return (
        f"{versions}; {machine.get('processor')}, {machine.get('threads')} of {machine.get('cores')} cores used, "
        f"{machine.get('system')}."
    )
