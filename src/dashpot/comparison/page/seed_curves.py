"""Curves of the runs of a method: mean over seeds, thinned and smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dashpot.comparison.results import Curve, JudgedRun
from dashpot.figures.series_data import evenly_spaced
from dashpot.utils.smoothing import smooth

POINTS = 100
"""Largest number of points of a drawn curve."""
FEW = 10
"""Largest number of seeds whose curves are drawn; more seeds are drawn as a band."""


def curves_of(runs: Sequence[JudgedRun], name: str) -> list[Curve]:
    """Return the curves with a name of the runs that are done and have one."""
    found = [run.curves[name] for run in runs if run.status == "done" and name in run.curves]
    return [curve for curve in found if len(curve.steps)]


def aligned(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Return common steps and the values of each curve at them (curves x steps).

    The steps are those of the longest curve within the range of all curves; other values are interpolated.
    """
    longest = max(curves, key=lambda curve: len(curve.steps))
    first, last = max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves)
    steps = longest.steps[(longest.steps >= first) & (longest.steps <= last)]
    return steps, np.array([np.interp(steps, curve.steps, curve.values) for curve in curves])


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Return the mean of curves; empty without curves."""
    if not curves:
        return Curve(np.empty(0), np.empty(0))
    steps, values = aligned(curves)
    return thin(Curve(steps, values.mean(axis=0)))


def range_curves(curves: Sequence[Curve]) -> tuple[Curve, Curve]:
    """Return the 5 % and the 95 % quantile of curves."""
    steps, values = aligned(curves)
    low, high = np.quantile(values, [0.05, 0.95], axis=0)
    return thin(Curve(steps, low)), thin(Curve(steps, high))


def thin(curve: Curve, most: int = POINTS) -> Curve:
    """Return a curve with at most `most` points at equal distances, including both ends."""
    chosen = evenly_spaced(len(curve.steps), most)
    return Curve(curve.steps[chosen], curve.values[chosen])


def smoothed(curve: Curve) -> Curve:
    """Return a curve as a moving average over 1/30 of its points."""
    window = max(1, len(curve.values) // 30)
    return Curve(curve.steps, np.asarray(smooth(curve.values.tolist(), window), dtype=np.float64))
