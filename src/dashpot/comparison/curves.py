"""Curves computed from records, as plain arrays for charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dashpot.runs.records import Run
from dashpot.utils.smoothing import smooth

Array = npt.NDArray[np.float64]


class Band(NamedTuple):
    """Mean, minimum and maximum of a metric over seeds at each of `steps`."""

    steps: Array
    mean: Array
    low: Array
    high: Array


def smoothed_loss(runs: Sequence[Run], window: int) -> Array:
    """Return the smoothed training loss, averaged over the runs, up to the last step of the shortest run."""
    length = min(len(run.loss) for run in runs)
    return np.mean([smooth(run.loss, window)[:length] for run in runs], axis=0)


def score_band(runs: Sequence[Run], phase: str, metric: str) -> Band:
    """Return the mean, minimum and maximum over runs of `metric` after each epoch that all runs have finished."""
    length = min(len(run.epochs) for run in runs)
    values = np.array([[epoch[phase][metric] for epoch in run.epochs[:length]] for run in runs])
    steps = np.array([epoch["steps"] for epoch in runs[0].epochs[:length]], dtype=float)
    return Band(steps, values.mean(axis=0), values.min(axis=0), values.max(axis=0))


def downsample(values: Array, points: int) -> tuple[Array, Array]:
    """Return steps (from 1) and values at `points` or fewer evenly spaced positions, including the endpoints.

    >>> steps, values = downsample(np.arange(5.0), points=3)
    >>> steps.tolist(), values.tolist()
    ([1.0, 3.0, 5.0], [0.0, 2.0, 4.0])
    """
    chosen = np.unique(np.linspace(0, len(values) - 1, min(points, len(values))).round().astype(int))
    return chosen.astype(np.float64) + 1, values[chosen]


def change_points(values: Sequence[float]) -> tuple[Array, Array]:
    """Return the steps (from 1) and values on both sides of each change of `values`, and at the endpoints.

    >>> steps, values = change_points([0.1, 0.1, 0.1, 0.05])
    >>> steps.tolist(), values.tolist()
    ([1.0, 3.0, 4.0], [0.1, 0.1, 0.05])
    """
    array = np.asarray(values, dtype=np.float64)
    keep = np.ones(len(array), dtype=bool)
    keep[1:-1] = (array[1:-1] != array[:-2]) | (array[1:-1] != array[2:])
    return np.flatnonzero(keep).astype(np.float64) + 1, array[keep]
