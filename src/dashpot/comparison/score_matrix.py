"""Scores of a comparison as a matrix of methods and seeds, and the order of the methods."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dashpot.comparison.results import Array, Results
from dashpot.stats.rounding import EXACT


@dataclass(frozen=True)
class ScoreMatrix:
    """Scores by method, in the order of the findings, and by seed.

    Attributes:
        methods: Names of the methods from best to worst; methods without a score are last.
        seeds: Seeds with at least one score, in the order of the settings.
        values: Scores of shape (methods, seeds); NaN if missing.
    """

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Array

    @property
    def scored(self) -> int:
        """Number of methods with at least one score; they are the first ones."""
        return int(np.isfinite(self.values).any(axis=1, keepdims=True).sum())

    @property
    def resolution(self) -> float:
        """Smallest distance of two distinct scores; 0 if no method has different scores (exact, without noise)."""
        rows = [row[np.isfinite(row)] for row in self.values]
        if not any(len(row) and np.ptp(row) > EXACT * np.abs(row).max() for row in rows):
            return 0.0
        gaps = np.diff(np.sort(np.concatenate(rows)))
        return float(gaps[gaps > EXACT * np.abs(np.concatenate(rows)).max()].min())

    def of(self, method: str) -> Array:
        """Return the scores of a method."""
        return self.values[self.methods.index(method)]


def score_matrix(results: Results) -> ScoreMatrix:
    """Return the scores of all methods, ordered by mean.

    The means are those of the least-squares fit `method + seed`, which are the plain means if no score is missing. Thus
    a method does not rank higher because its run with an unfavourable seed is missing. Methods with equal means are in
    the order of the settings. Scores that are not finite count as missing.

    Args:
        results: Results of a comparison.

    Returns:
        The matrix; its seeds are empty if there is no score.
    """
    column = {seed: k for k, seed in enumerate(_all_seeds(results))}
    row = {method: k for k, method in enumerate(results.methods)}
    values = np.full((len(row), len(column)), math.nan)
    for run in results.runs:
        if run.score is not None and math.isfinite(run.score):
            values[row[run.method], column[run.seed]] = run.score
    used = np.flatnonzero(np.isfinite(values).any(axis=0))
    means = results.rule.sign * adjusted_means(values)
    order = np.argsort(-np.where(np.isfinite(means), means, -math.inf), kind="stable")
    seeds = tuple(seed for seed, k in column.items() if k in used)
    return ScoreMatrix(tuple(results.methods[k] for k in order), seeds, values[order][:, used])


def _all_seeds(results: Results) -> list[int]:
    """Return the planned seeds and then further seeds with runs."""
    return list(dict.fromkeys([*results.seeds, *(run.seed for run in results.runs)]))


def adjusted_means(values: Array) -> Array:
    """Return the mean of each row, adjusted for the columns in which the row has no value.

    The means are those of the least-squares fit `row + column` to the values that are not NaN. The fit is defined if
    the shared columns connect all rows; otherwise, the result contains the plain means. It is NaN for empty rows.

    Args:
        values: Values of shape (rows, columns), NaN where missing.

    Returns:
        Means of shape (rows,).

    >>> adjusted_means(np.array([[1.0, 2.0, 6.0], [1.5, 2.5, math.nan]])).tolist()
    [3.0, 3.5]
    """
    known = np.isfinite(values)
    rows, columns = known.any(axis=1), known.any(axis=0)
    means = np.full(len(values), math.nan)
    means[rows] = [line[there].mean() for line, there in zip(values[rows], known[rows], strict=True)]
    if known[rows][:, columns].all() or not _connected(known[rows][:, columns]):
        return means
    fitted = _fitted_means(values[rows][:, columns], known[rows][:, columns])
    scale = float(np.abs(fitted).max()) or 1.0
    decimals = min(300, 12 - math.floor(math.log10(scale)))
    means[rows] = np.round(fitted, decimals)  # rounding errors must not separate rows with equal values
    return means


def _fitted_means(values: Array, known: npt.NDArray[np.bool_]) -> Array:
    """Return the row means of the least-squares fit `row + column`, averaged over all columns."""
    there = np.argwhere(known)
    design = np.zeros((len(there), sum(values.shape)))
    design[np.arange(len(there)), there[:, 0]] = 1
    design[np.arange(len(there)), len(values) + there[:, 1]] = 1
    effects = np.linalg.lstsq(design, values[known], rcond=None)[0]
    return effects[: len(values)] + effects[len(values) :].mean()


def _connected(known: npt.NDArray[np.bool_]) -> bool:
    """Return whether all rows are linked by chains of shared columns."""
    reached = np.zeros(len(known), dtype=bool)
    reached[:1] = True
    while True:
        grown = known[:, known[reached].any(axis=0)].any(axis=1)
        if (grown == reached).all():
            return bool(reached.all())
        reached = grown
