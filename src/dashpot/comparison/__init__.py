"""Comparison of methods: paired runs, records, summary and report.

A comparison is a `Study`. `run_study` trains the runs that are missing from the output folder. `results_of_folder`,
`results_of_runs` and `results_of_csv` read results, `judge` computes their statistics, and `write_report` writes the
page.
"""

from dashpot.comparison.csv_results import results_of_csv
from dashpot.comparison.findings import Findings, MethodFinding, PairFinding
from dashpot.comparison.judge import judge
from dashpot.comparison.live_progress import LiveProgress
from dashpot.comparison.progress import LineProgress, SilentProgress, StudyProgress
from dashpot.comparison.read_results import results_of_folder
from dashpot.comparison.report import write_report
from dashpot.comparison.results import Curve, JudgedRun, RateRun, Results, ScoreRule, TuningTrial
from dashpot.comparison.run_results import results_of_runs
from dashpot.comparison.runner import run_study
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.table import markdown_summary, text_summary
from dashpot.runs.combined_optimizer import CombinedOptimizer
from dashpot.runs.default_lr import DEFAULT_METHODS, default_lr
from dashpot.runs.entries import entry, known_entries
from dashpot.runs.entry import Entry
from dashpot.runs.records import Run, read_run
from dashpot.runs.search_space import search_space
from dashpot.runs.signals import Interrupted
from dashpot.runs.study import Study
from dashpot.scheduling.dimension import Dimension

__all__ = [
    "DEFAULT_METHODS",
    "CombinedOptimizer",
    "Curve",
    "Dimension",
    "Entry",
    "Findings",
    "Interrupted",
    "JudgedRun",
    "LineProgress",
    "LiveProgress",
    "MethodFinding",
    "PairFinding",
    "RateRun",
    "Results",
    "Run",
    "ScoreRule",
    "SilentProgress",
    "Study",
    "StudyFolder",
    "StudyProgress",
    "TuningTrial",
    "default_lr",
    "entry",
    "judge",
    "known_entries",
    "markdown_summary",
    "read_run",
    "results_of_csv",
    "results_of_folder",
    "results_of_runs",
    "run_study",
    "search_space",
    "text_summary",
    "write_report",
]
