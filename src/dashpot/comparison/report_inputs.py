"""Results of the folders that are given to `dashpot report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dashpot.comparison.read_results import results_of_folder
from dashpot.comparison.results import Results
from dashpot.comparison.run_results import results_of_runs
from dashpot.errors import ArgumentError, RunError


def results_of_paths(paths: Sequence[Path]) -> list[Results]:
    """Read the results of several comparisons, or of several runs of `dashpot train` as one comparison.

    Args:
        paths: Folders of `dashpot compare`, or of `dashpot train`, at least one.

    Returns:
        The results of each comparison. If a task occurs several times, the names of the tasks contain the folders.

    Raises:
        ArgumentError: If there is no folder, or there are folders of both kinds.
        RunError: If a folder is neither, or cannot be read.
    """
    if not paths:
        raise ArgumentError("report: give at least one folder of dashpot compare or dashpot train.")
    kinds = {path: _is_comparison(path) for path in paths}
    if all(kinds.values()):
        return _distinct([results_of_folder(path) for path in paths])
    if any(kinds.values()):
        one, other = (next(path for path, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise ArgumentError(f"report: folders must be of one kind, but {one} is a comparison and {other} is a run.")
    return [results_of_runs(paths)]


def _is_comparison(path: Path) -> bool:
    """Return whether a folder is that of a comparison, or else that of a run."""
    try:
        names = {item.name for item in path.iterdir()}
    except OSError as error:
        raise RunError(f"{path} is not a comparison: cannot read the folder ({error.strerror or error}).") from error
    if "study.json" in names:
        return True
    if "run.toml" in names or "run.jsonl" in names:
        return False
    content = "is empty" if not names else "has neither study.json nor run.toml"
    raise RunError(f"{path} is not a comparison: the folder {content}.")


def _distinct(found: list[Results]) -> list[Results]:
    counts = Counter(results.task for results in found)
    return [replace(each, task=f"{each.task} ({each.source})") if counts[each.task] > 1 else each for each in found]
