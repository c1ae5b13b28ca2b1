"""Report of a comparison: a page and a summary, generated only from the records."""

from __future__ import annotations

from pathlib import Path

from dashpot.comparison.judge import judge
from dashpot.comparison.page import write_page
from dashpot.comparison.read_results import results_of_folder
from dashpot.comparison.table import markdown_summary
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.files import write_text


def write_report(out: Path) -> Path:
    """Write `report.html` and `summary.md` from the records of a comparison.

    Args:
        out: Folder of the comparison, which may be unfinished.

    Returns:
        Path of `report.html`.

    Raises:
        RunError: If `out` does not contain a readable comparison with a record, or cannot be written, or if jinja2 is
            not installed.
    """
    folder = Path(out)
    findings = judge(results_of_folder(folder))
    write_text(folder / "summary.md", markdown_summary(findings) + "\n")
    try:
        return write_page([findings], folder / "report.html")
    except ArgumentError as error:
        raise RunError(str(error)) from error
