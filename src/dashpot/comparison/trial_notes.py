"""Remarks on the tuning trials of a comparison that ended without a score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dashpot.comparison.results import Results, TuningTrial
from dashpot.utils.format import counted


def trial_notes(results: Results) -> Iterator[str]:
    """Return a remark for each method with failed trials, or whose trials all ended without a score."""
    for name in results.methods:
        trials = [trial for trial in results.trials if trial.method == name]
        failed = [trial for trial in trials if trial.status == "failed"]
        if trials and all(trial.status in ("diverged", "failed", "pruned") for trial in trials):
            yield f"{name}: no tuning trial has a score ({_causes(trials)}); its runs use the default settings."
        elif failed:
            yield f"{name}: of {counted(len(trials), 'tuning trial')}, {_causes(failed)}."


def _causes(trials: Sequence[TuningTrial]) -> str:
    """Return the numbers of trials by status, and the errors of failed trials."""
    kinds = sorted({trial.status for trial in trials})
    counts = ", ".join(f"{sum(trial.status == kind for trial in trials)} {kind}" for kind in kinds)
    errors = "; ".join(dict.fromkeys(trial.error for trial in trials if trial.error))
    return f"{counts}: {errors}" if errors else counts
