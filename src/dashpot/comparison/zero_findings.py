"""Statistics of a grid of zeros: differences between numerators by zero, overfitting, and selected rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dashpot.comparison.results import ScoreRule
from dashpot.comparison.zero_cells import Cell, Grid, Values
from dashpot.stats import Interval
from dashpot.stats.verdicts import Verdict, verdict

BASELINE = 0
"""Numerator with which the others are compared: the constant one."""


@dataclass(frozen=True)
class Contrast:
    """Difference of a numerator to the constant one at a zero.

    Attributes:
        zero: The zero.
        numerator: The numerator.
        difference: Its score minus that of the constant numerator, with the interval that holds jointly for all
            contrasts of the workload; None without a common seed.
        verdict: Verdict on the numerator.
    """

    zero: str
    numerator: int
    difference: Interval | None
    verdict: Verdict


class Choice(NamedTuple):
    """Zero that validation data select for a numerator."""

    numerator: int
    zero: str
    cell: Cell


@dataclass(frozen=True)
class GridFindings:
    """Findings on a workload.

    Attributes:
        grid: Its final figures.
        contrasts: Contrasts by numerator and zero; empty without a constant numerator.
        choices: For each numerator, the zero that validation data select.
        choice_difference: Score of the first further numerator minus that of the constant one, each with its selected
            zero, with a 95 % interval; None if unknown.
    """

    grid: Grid
    contrasts: tuple[Contrast, ...]
    choices: tuple[Choice, ...]
    choice_difference: Interval | None

    @property
    def rule(self) -> ScoreRule:
        """Metric of the scores."""
        facts = self.grid.facts
        return ScoreRule(facts["metric"], facts["direction"], facts["split"], margin=facts["margin"])

    def contrast(self, numerator: int, zero: str) -> Contrast | None:
        """Return a contrast, or None if there is none."""
        return next((item for item in self.contrasts if (item.numerator, item.zero) == (numerator, zero)), None)

    def named(self, kind: str, numerator: int) -> list[str]:
        """Return the zeros at which a numerator has a verdict."""
        return [item.zero for item in self.contrasts if item.numerator == numerator and item.verdict.kind == kind]


def grid_findings(grid: Grid) -> GridFindings:
    """Compute the findings on a workload.

    The verdict on a contrast is that of `dashpot.stats.verdicts.verdict` with the margin of the task.
    """
    choices = tuple(choice for numerator in grid.numerators if (choice := _choice(grid, numerator)) is not None)
    return GridFindings(grid, _contrasts(grid), choices, _choice_difference(choices))


def _contrasts(grid: Grid) -> tuple[Contrast, ...]:
    from dashpot.stats.paired_family import paired_family

    pairs = [
        (cell, base)
        for numerator in grid.numerators
        for zero in grid.zeros
        if numerator != BASELINE
        and (cell := grid.cell(numerator, zero)) is not None
        and (base := grid.cell(BASELINE, zero)) is not None
    ]
    if not pairs:
        return ()
    apart = [k for k, pair in enumerate(pairs) if any("diverged" in cell.status for cell in pair)]
    first, second = ([_array(pair[side].score) for pair in pairs] for side in (0, 1))
    found = paired_family(np.stack(first), np.stack(second), apart=apart)
    return tuple(
        Contrast(cell.zero, cell.numerator, interval, _verdict(grid, interval, cell, base, len(pairs)))
        for (cell, base), interval in zip(pairs, found, strict=True)
    )


def _verdict(grid: Grid, interval: Interval | None, cell: Cell, base: Cell, count: int) -> Verdict:
    """Return the verdict; the number of additional seeds is that of a comparison at the level of one contrast."""
    differences = _array(cell.score) - _array(base.score)
    known = differences[np.isfinite(differences)]
    return verdict(
        interval,
        grid.facts["margin"],
        direction=grid.facts["direction"],
        sd=float(known.std(ddof=1)) if len(known) > 1 else None,
        seeds=len(known),
        methods=2 * count,
    )


def _choice(grid: Grid, numerator: int) -> Choice | None:
    """Return the zero with the best mean of the last validation scores; None if no cell has all of them."""
    means = [(mean_of(cell.validation), cell) for cell in grid.cells if cell.numerator == numerator]
    known = [(mean, cell) for mean, cell in means if mean is not None]
    if not known:
        return None
    best = max(known, key=lambda pair: grid.sign * pair[0])[1]
    return Choice(numerator, best.zero, best)


def _choice_difference(choices: Sequence[Choice]) -> Interval | None:
    from dashpot.stats.differences import paired_interval

    base = next((choice for choice in choices if choice.numerator == BASELINE), None)
    other = next((choice for choice in choices if choice.numerator != BASELINE), None)
    if base is None or other is None:
        return None
    return paired_interval(_array(other.cell.score) - _array(base.cell.score))


class Overfitting(NamedTuple):
    """Overfitting of a cell, as means over the seeds.

    Attributes:
        lost: Amount by which the last validation score is worse than the best during the run.
        step: Step of the best validation score.
        gap: Loss on the data that are judged minus training loss.
    """

    lost: float
    step: float
    gap: float


def overfitting(grid: Grid, cell: Cell) -> Overfitting | None:
    """Return the overfitting of a cell; None without a finished run."""
    rows = [
        (grid.sign * (best - last), step, test - train)
        for best, last, step, test, train, status in zip(
            cell.best, cell.validation, cell.best_step, cell.test_loss, cell.train_loss, cell.status, strict=True
        )
        if status == "done" and None not in (best, last, step, test, train)
    ]
    return Overfitting(*np.mean(rows, axis=0).tolist()) if rows else None


def edge_cells(grid: Grid) -> list[tuple[Cell, str]]:
    """Return the cells whose selected rate is the "lowest" or the "highest" of several shared rates."""
    rates = grid.facts["rates"]
    named = {rates[0]: "lowest", rates[-1]: "highest"} if len(rates) > 1 else {}
    return [(cell, named[cell.lr]) for cell in grid.cells if cell.lr in named]


def _array(values: Values) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def mean_of(values: Values) -> float | None:
    """Return the mean of values by seed; None if one of them is unknown.

    >>> mean_of((1.0, 2.0)), mean_of((1.0, None))
    (1.5, None)
    """
    return None if None in values else float(_array(values).mean())
