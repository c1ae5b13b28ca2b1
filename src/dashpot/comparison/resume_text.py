"""Sentences on the finished part of a study and the command that resumes it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.study_items import items
from dashpot.runs.study import Study
from dashpot.scheduling.work_items import WorkItem

KINDS = {"trial": "trials", "run": "runs", "rate": "runs at other rates"}
"""Nouns of the kinds of items, the first parts of their keys."""


def resume_text(study: Study, folder: StudyFolder, done: Iterable[str], command: str | None) -> str:
    """Return sentences on the finished items, the started runs, and the command that resumes the study.

    Args:
        study: The study.
        folder: Its folder.
        done: Keys of finished items.
        command: Command line of the study, or None.
    """
    runs = folder.runs()
    # A lost storage lacks the outcomes of items that have ended here; the next start delivers them.
    ended = {run.header["item"] for run in (*folder.trials(), *runs, *folder.rate_runs()) if run.end is not None}
    started = [run for run in runs if run.end is None and run.epochs]
    total = study.settings()["steps"]
    parts = [f"{run.entry} seed {run.seed} up to step {run.epochs[-1]['steps']} of {total}" for run in started]
    saved = f", and {', '.join(parts)}" if parts else ""
    resume = f"Resume with: {command}" if command else "Run the study again to resume."
    return f"{folder.path} has {done_text(items(study), ended.union(done))}{saved}. {resume}"


def done_text(planned: Sequence[WorkItem], done: Container[str]) -> str:
    """Return the numbers of finished and planned items of each kind.

    >>> done_text([WorkItem("trial/adam/0", "adam"), WorkItem("run/adam/0", "runs")], {"trial/adam/0"})
    '1 of 1 trials and 0 of 1 runs'
    """
    parts = []
    for kind, noun in KINDS.items():
        keys = [item.key for item in planned if item.key.startswith(f"{kind}/")]
        if keys:
            parts.append(f"{sum(key in done for key in keys)} of {len(keys)} {noun}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
