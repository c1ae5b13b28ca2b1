"""Comparison of methods: paired runs, records, summary and report.

A comparison is a `Study`. `run_study` trains the runs that are missing from the output folder; `summarise` and
`write_report` only read records.
"""

from dashpot.comparison.live_progress import LiveProgress
from dashpot.comparison.progress import LineProgress, SilentProgress, StudyProgress
from dashpot.comparison.report import write_report
from dashpot.comparison.runner import run_study
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.summary import Summary, SummaryRow, summarise
from dashpot.runs.default_lr import DEFAULT_METHODS, default_lr
from dashpot.runs.entries import Entry, entry, known_entries
from dashpot.runs.records import Run, read_run
from dashpot.runs.signals import Interrupted
from dashpot.runs.study import Study

__all__ = [
    "DEFAULT_METHODS",
    "Entry",
    "Interrupted",
    "LineProgress",
    "LiveProgress",
    "Run",
    "SilentProgress",
    "Study",
    "StudyFolder",
    "StudyProgress",
    "Summary",
    "SummaryRow",
    "default_lr",
    "entry",
    "known_entries",
    "read_run",
    "run_study",
    "summarise",
    "write_report",
]
