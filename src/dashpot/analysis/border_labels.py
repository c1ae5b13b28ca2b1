"""Numbers on the borders of shaded areas, away from lines and other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dashpot.figures import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]
_ROOM = 0.035  # smallest distance of a label from lines, as a fraction of the axes
_WIDTH = 0.6  # labels are wider than high: horizontal distances count less


def label_borders(panel: Axes, levels: Sequence[float], borders: Sequence[Points], lines: Sequence[Points]) -> None:
    """Write each level on its border, at the point with the largest distance from all other lines and from the axes.

    A border that is close to other lines everywhere has no label.

    Args:
        panel: Axes whose limits are final.
        levels: Numbers to write.
        borders: Points (x, y) of the border of each level.
        lines: Points of further lines to keep clear of.
    """
    placed = [_fractions(panel, points) for points in borders]
    fixed = [_fractions(panel, points) for points in lines]
    for index, (level, own) in enumerate(zip(levels, placed, strict=True)):
        others = np.concatenate([*placed[:index], *placed[index + 1 :], *fixed, np.empty((0, 2))])
        if not len(own):
            continue
        room = np.minimum(_clearance(own, others), _inside(own))
        best = int(np.argmax(room))
        if room[best] < _ROOM:
            continue
        x, y = own[best] / (_WIDTH, 1)
        panel.text(
            x, y, f"{level:g}", transform=panel.transAxes, ha="center", va="center", fontsize=8, color=color("ink")
        )
        fixed.append(own[best : best + 1])


def _fractions(panel: Axes, points: Points) -> Points:
    """Return points in units of the axes, with shortened horizontal distances."""
    (left, right), (bottom, top) = panel.get_xlim(), panel.get_ylim()
    scaled = (np.asarray(points).reshape(-1, 2) - (left, bottom)) / (right - left, top - bottom)
    return scaled[np.isfinite(scaled).all(axis=1)] * (_WIDTH, 1)


def _clearance(points: Points, others: Points) -> NDArray[np.float64]:
    if not len(others):
        return np.full(len(points), np.inf)
    return np.sqrt(((points[:, None, :] - others[None, :, :]) ** 2).sum(axis=2).min(axis=1))


def _inside(points: Points) -> NDArray[np.float64]:
    """Return the distance from the nearest side of the axes."""
    return np.minimum(points, (_WIDTH, 1) - points).min(axis=1)
