"""Performance profiles across tasks against a fixed reference method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dashpot.errors import ArgumentError
from dashpot.stats.times import Array


@dataclass(frozen=True)
class Profile:
    """Performance profile of one method, as a step function.

    Attributes:
        ratio: Ratios to the reference at which the profile increases, in increasing order.
        share: Share of tasks with at most this ratio, in [0, 1].
        tasks: Number of tasks.
    """

    ratio: Array
    share: Array
    tasks: int

    def at(self, ratio: float) -> float:
        """Return the share of tasks on which the method needs at most `ratio` times the steps of the reference."""
        below = int(np.searchsorted(self.ratio, ratio, side="right"))
        return float(self.share[below - 1]) if below else 0.0


def reference_ratios(steps: Any, reference: int) -> Array:
    """Return the steps to the target of each method divided by those of the reference.

    Args:
        steps: Steps to the target, methods x tasks; inf for a miss, NaN for a missing result.
        reference: Row of the reference; its ratio is 1 on every task with a hit.

    Returns:
        Ratios, methods x tasks: inf for a miss, also of the reference; 0 for a hit on a task that the reference misses.

    Raises:
        ArgumentError: If `steps` is not a matrix, or `reference` is not one of its rows.

    Example:
        >>> reference_ratios([[100, 300], [200, float("inf")]], reference=0).tolist()
        [[1.0, 1.0], [2.0, inf]]
    """
    table = np.asarray(steps, dtype=np.float64)
    if table.ndim != 2:
        raise ArgumentError(f"reference_ratios: steps must be a matrix (methods x tasks), got shape {table.shape}.")
    if not 0 <= reference < len(table):
        raise ArgumentError(f"reference_ratios: reference must be a row in [0, {len(table)}), got {reference}.")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = table / table[reference]
    ratios[np.isinf(table)] = np.inf
    ratios[table == table[reference]] = 1.0  # also 0/0
    ratios[np.isinf(table) & np.isinf(table[reference])] = np.inf
    return ratios


def performance_profile(ratios: Any) -> tuple[Profile, ...]:
    """Return for each method the share of tasks with a ratio of at most tau, as a function of tau.

    The profile of a method depends on its own ratios only. With ratios to a fixed reference, it does not change when a
    method is added to the comparison; with ratios to the best method, it would.

    Args:
        ratios: Ratios to the reference, methods x tasks; inf for a miss, NaN for a missing task, which is omitted.

    Returns:
        One profile for each method; empty steps without a hit.

    Raises:
        ArgumentError: If `ratios` is not a matrix.

    Source: Dolan and More, Math. Program. 91 (2002) 201, with a fixed reference.

    Example:
        >>> profile = performance_profile([[2.0, 0.5, float("inf")]])[0]
        >>> profile.ratio.tolist(), profile.share.round(2).tolist(), profile.at(1.0)
        ([0.5, 2.0], [0.33, 0.67], 0.333...)
    """
    table = np.asarray(ratios, dtype=np.float64)
    if table.ndim != 2:
        raise ArgumentError(f"performance_profile: ratios must be a matrix (methods x tasks), got shape {table.shape}.")
    return tuple(_profile(row[~np.isnan(row)]) for row in table)


def _profile(ratios: Array) -> Profile:
    at, counts = np.unique(ratios[np.isfinite(ratios)], return_counts=True)
    return Profile(at, np.cumsum(counts) / max(ratios.size, 1), ratios.size)
