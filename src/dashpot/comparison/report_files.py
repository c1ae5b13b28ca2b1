"""Files of a report: the page and, next to it, the summary in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dashpot.comparison.findings import Findings
from dashpot.comparison.judge import REFERENCE, judge
from dashpot.comparison.page import write_page
from dashpot.comparison.results import Results
from dashpot.comparison.table import markdown_summary
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import make_folder, write_text

PAGE = "report.html"


def judged(results: Sequence[Results], reference: str | None = None) -> list[Findings]:
    """Return the findings of comparisons, with a common reference of the steps to the target.

    Args:
        results: Results of comparisons, at least one.
        reference: Method in all comparisons. Default: "adamw" if all contain it, else the first common method, else the
            default of `judge` for each comparison.

    Raises:
        ArgumentError: If a comparison does not contain `reference`.
    """
    common = [name for name in results[0].methods if all(name in each.methods for each in results)]
    if reference is None and common:
        reference = REFERENCE if REFERENCE in common else common[0]
    return [judge(each, reference=reference) for each in results]


def report_path(folders: Sequence[Path]) -> Path:
    """Return the default path of the page: in the folder of a single comparison, else in the current folder."""
    single = len(folders) == 1 and (folders[0] / "study.json").exists()
    return folders[0] / PAGE if single else Path(PAGE)


def write_files(findings: Sequence[Findings], page: Path) -> None:
    """Write the page and the summary.

    The summary of `report.html` is `summary.md`, that of a different page has the same name with the suffix .md.

    Args:
        findings: Findings of comparisons, at least one.
        page: Path of the page; missing folders are created.

    Raises:
        RunError: If a file cannot be written, or jinja2 is not installed.
    """
    make_folder(page.parent)
    summary = page.with_name("summary.md") if page.name == PAGE else page.with_suffix(".md")
    write_text(summary, "\n\n".join(map(markdown_summary, findings)) + "\n")
    try:
        write_page(findings, page)
    except ArgumentError as error:
        raise RunError(str(error)) from error
