"""Execution of the study of a command, with its progress, table and report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dashpot.cli.command_words import command_line
from dashpot.utils.format import counted
from dashpot.utils.garbage import no_collection

if TYPE_CHECKING:
    from dashpot.runs.study import Study
    from dashpot.scheduling.work_items import Outcome


def execute_study(study: Study, out: Path, *, storage: str | None = None, jobs: int = 1) -> dict[str, Outcome]:
    """Execute a study with a progress report on stdout, and return its outcomes."""
    from dashpot.comparison.progress import progress_for
    from dashpot.comparison.runner import complete_study
    from dashpot.utils.passwords import without_passwords

    command = without_passwords(command_line())
    return complete_study(study, out, storage=storage, jobs=jobs, progress=progress_for(sys.stdout), command=command)


def compare_study(study: Study, out: Path, *, storage: str | None = None, jobs: int = 1) -> None:
    """Execute a study, print its table and verdicts, and write its report."""
    print(f"{announcement(study)}, written to {out}.", flush=True)
    execute_study(study, out, storage=storage, jobs=jobs)
    from dashpot.comparison.read_results import results_of_folder
    from dashpot.comparison.report_files import judged, report_path, write_files
    from dashpot.comparison.table import text_summary

    with no_collection():
        findings = judged([results_of_folder(out)])  # imports scipy.stats
    print(f"\n{text_summary(findings[0])}\n", flush=True)
    page = report_path([out])
    write_files(findings, page)
    print(f"Report: {page}")


def announcement(study: Study) -> str:
    """Return the size of a study as a clause."""
    from dashpot.runs.study import RATE_FACTORS

    methods, seeds = len(study.entries), len(study.seeds)
    trials = sum(study.trials(entry.name) for entry in study.entries)
    tuning = f"{counted(trials, 'tuning trial')}, " if trials else ""
    other = len(study.rated_seeds) * len(RATE_FACTORS) * methods
    rates = f", {counted(other, 'run')} at other rates" if other else ""
    return (
        f"Comparing {counted(methods, 'method')} on {study.task.name}: {counted(study.epochs, 'epoch')}, {tuning}"
        f"{counted(seeds, 'seed')}, {counted(methods * seeds, 'run')}{rates}"
    )
