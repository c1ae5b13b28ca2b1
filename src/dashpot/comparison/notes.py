"""Remarks on a comparison: irregular runs, single seeds, missing test data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.rate_notes import rate_notes
from dashpot.comparison.results import JudgedRun, Results
from dashpot.comparison.score_matrix import ScoreMatrix
from dashpot.comparison.score_text import names_text
from dashpot.comparison.trial_notes import trial_notes
from dashpot.stats.verdicts import decimals, number
from dashpot.utils.format import counted, ranges

SPLITS = {
    "validation": "The verdict uses validation data, since there are no scores on test data",
    "train": "The verdict uses training data, since there are no scores on test or validation data",
}
MAX_NOTES = 5
"""Number of methods with a note of their own per kind of note."""


def notes(results: Results, matrix: ScoreMatrix, methods: Sequence[MethodFinding]) -> tuple[str, ...]:
    """Return the remarks that a reader of the findings needs.

    Args:
        results: Results of the comparison.
        matrix: Their scores.
        methods: Findings on the methods, from best to worst.
    """
    return (
        *_data(results),
        *_seeds(results, matrix),
        *_short(_diverged(results)),
        *_short(_failed(results)),
        *_short(trial_notes(results)),
        *_incomplete(results),
        *_adjusted(results, methods),
        *_short(rate_notes(results, methods)),
        *_target(results),
        *results.remarks,
    )


def _short(found: Iterator[str]) -> Iterator[str]:
    every = list(found)
    yield from every[:MAX_NOTES]
    if len(every) > MAX_NOTES:
        yield f"{counted(len(every) - MAX_NOTES, 'further method')} likewise."


def _data(results: Results) -> Iterator[str]:
    if results.rule.split in SPLITS:
        tuned = "; the same data selected the settings" if results.trials else ""
        yield f"{SPLITS[results.rule.split]}{tuned}."


def _seeds(results: Results, matrix: ScoreMatrix) -> Iterator[str]:
    if len(matrix.seeds) == 1:
        yield "There is one seed: intervals and verdicts need at least two."
    elif results.looks:
        yield _look(results, len(matrix.seeds))


def _look(results: Results, seeds: int) -> str:
    plan = f"Group-sequential plan with looks at {', '.join(map(str, results.looks))} seeds"
    if seeds in results.looks:
        return f"{plan}; this is look {results.looks.index(seeds) + 1} of {len(results.looks)}."
    return f"{plan}; with {seeds} seeds, the verdicts are provisional."


def _diverged(results: Results) -> Iterator[str]:
    for name in results.methods:
        runs = results.of(name)
        found = [run for run in runs if run.status == "diverged"]
        if found:
            miss = "" if results.rule.target is None else " and as a miss of the target"
            count = f"{name}: {len(found)} of {counted(len(runs), 'run')} diverged"
            if all(run.score is None for run in found):
                yield f"{count}; they have no score, since that of the untrained model is unknown or not finite."
            else:
                yield f"{count}, counted with the score of the untrained model{_score(found)}{miss}."


def _score(runs: Sequence[JudgedRun]) -> str:
    """Return the common score of runs in parentheses, if they have one."""
    known = {number(run.score, decimals(abs(run.score), 4)) for run in runs if run.score is not None}
    return f" ({known.pop()})" if len(known) == 1 else ""


def _failed(results: Results) -> Iterator[str]:
    for name in results.methods:
        runs = results.of(name)
        found = [run for run in runs if run.status == "failed"]
        if found:
            seeds = ranges([run.seed for run in found])
            errors = "; ".join(dict.fromkeys(run.error for run in found if run.error))
            cause = f" ({errors})" if errors else ""
            kind = "seed" if len(found) == 1 else "seeds"
            yield f"{name}: {len(found)} of {counted(len(runs), 'run')} failed{cause}; {kind} {seeds} without score."


def _incomplete(results: Results) -> Iterator[str]:
    planned = len(results.methods) * _planned_seeds(results)
    ended = sum(run.status != "unfinished" for run in results.runs)
    if ended < planned:
        started = {run.method for run in results.runs if run.status != "unfinished"}
        without = [name for name in results.methods if name not in started]
        rest = f"; {names_text(without)} {'has' if len(without) == 1 else 'have'} none" if without and started else ""
        verb = "has" if ended == 1 or planned == 1 else "have"
        yield f"The comparison is incomplete: {ended} of {counted(planned, 'run')} {verb} ended{rest}."


def _adjusted(results: Results, methods: Sequence[MethodFinding]) -> Iterator[str]:
    """Yield a remark if the order is not that of the means, which cover different seeds."""
    means = [results.rule.sign * method.mean.estimate for method in methods if method.mean is not None]
    if any(first < second for first, second in pairwise(means)):
        yield "The order compares equal seeds; means of methods with missing runs cover fewer seeds."


def _planned_seeds(results: Results) -> int:
    """Return the number of seeds up to the current look; a group-sequential study may end before its last look."""
    used = len({run.seed for run in results.runs})
    return next((look for look in results.looks if used <= look), len(results.seeds))


def _target(results: Results) -> Iterator[str]:
    target = results.rule.target
    known = [run for run in results.runs if not math.isnan(run.steps_to_target)]
    if target is not None and known and all(math.isinf(run.steps_to_target) for run in known):
        steps = max(run.steps for run in known)
        yield f"No run reached the target, {results.rule.metric} {target:g}, within {counted(steps, 'step')}."
