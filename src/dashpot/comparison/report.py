"""Report of a comparison: a page and a summary, generated only from the records."""

from __future__ import annotations

from pathlib import Path

from dashpot.comparison.judge import judge
from dashpot.comparison.read_results import results_of_folder
from dashpot.comparison.report_files import PAGE, write_files


def write_report(out: Path) -> Path:
    """Write `report.html` and `summary.md` from the records of a comparison.

    Args:
        out: Folder of the comparison, which may be unfinished.

    Returns:
        Path of `report.html`.

    Raises:
        RunError: If `out` does not contain a readable comparison with a record, or cannot be written, or if jinja2 or
            scipy is not installed.
    """
    folder = Path(out)
    write_files([judge(results_of_folder(folder))], folder / PAGE)
    return folder / PAGE
