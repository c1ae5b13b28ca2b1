"""Published Fashion-MNIST table: settings and results of the runs that `dashpot reproduce` repeats.

Each result is a tuple (train accuracy, train loss, evaluation accuracy, evaluation loss) after one epoch of one run.

Source: SlowAI notebook, jeremyadamsfisher/SlowAI on GitHub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

import dashpot
from dashpot.schedules import Cosine, MultiStep, OneCycle, OneCycleMomentum
from dashpot.stages import Filter, SecondMoment

Figures = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class PublishedRow:
    """Row of the table: settings and published results of one run.

    Attributes:
        label: Description of the settings.
        make: Optimizer class.
        lr: Learning rate.
        figures: Published results, one tuple per epoch.
        options: Additional arguments of `make`.
        schedule: Function from the number of steps to the `schedule` argument of `make`, or None.
    """

    label: str
    make: Callable[..., Optimizer]
    lr: float
    figures: Figures
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], Any] | None = None

    @property
    def epochs(self) -> int:
        """Number of epochs of the run."""
        return len(self.figures)


def _one_cycle(steps: int) -> dict[str, Any]:
    return {"lr": OneCycle(steps), "betas[0]": OneCycleMomentum(steps)}


ROWS: Mapping[str, PublishedRow] = {
    "A2": PublishedRow(
        "SGD, lr 0.2 for 3 epochs (A1), then 0.05 for 2",
        dashpot.SGD,
        0.2,
        (
            (0.791, 0.578, 0.807, 0.531),
            (0.855, 0.395, 0.835, 0.460),
            (0.868, 0.357, 0.841, 0.443),
            (0.883, 0.321, 0.868, 0.358),
            (0.886, 0.314, 0.869, 0.355),
        ),
        schedule=lambda steps: MultiStep(milestones=(3 * steps // 5,), factor=0.25),
    ),
    "B": PublishedRow(
        "EMA momentum 0.9, lr 1.25",
        dashpot.QHM,
        1.25,
        ((0.803, 0.549, 0.590, 1.788), (0.857, 0.395, 0.851, 0.411), (0.880, 0.325, 0.866, 0.383)),
        {"pole": 0.9, "nu": 1.0},
    ),
    "C": PublishedRow(
        "RMSProp 0.99, second moment from the first square, eps 1e-5, lr 0.01",
        dashpot.SGM,
        1e-2,
        ((0.780, 0.635, 0.814, 0.536), (0.855, 0.387, 0.827, 0.513), (0.869, 0.348, 0.822, 0.521)),
        {"rate": SecondMoment(0.99, eps=1e-5, average="first")},
    ),
    "D": PublishedRow(
        "Adam 0.9/0.99, eps 1e-5 inside the root, lr 0.01",
        dashpot.SGM,
        1e-2,
        ((0.824, 0.490, 0.852, 0.430), (0.874, 0.346, 0.867, 0.386), (0.888, 0.302, 0.868, 0.371)),
        {"filter": Filter(0.9), "rate": SecondMoment(0.99, eps=1e-5, eps_mode="inside")},
    ),
    "E": PublishedRow(
        "Adam, cosine from lr 0.01",
        dashpot.Adam,
        1e-2,
        ((0.822, 0.493, 0.843, 0.430), (0.878, 0.332, 0.868, 0.359), (0.896, 0.283, 0.877, 0.335)),
        schedule=Cosine,
    ),
    "F": PublishedRow(
        "AdamW, decay 0.01, 1cycle to lr 0.01",
        dashpot.AdamW,
        1e-2,
        ((0.727, 0.777, 0.837, 0.482), (0.870, 0.357, 0.868, 0.361), (0.895, 0.285, 0.884, 0.320)),
        schedule=_one_cycle,
    ),
    "G": PublishedRow(
        "AdamW, decay 0.01, 1cycle to lr 0.05",
        dashpot.AdamW,
        5e-2,
        (
            (0.792, 0.578, 0.798, 0.559),
            (0.843, 0.428, 0.831, 0.479),
            (0.874, 0.339, 0.866, 0.377),
            (0.893, 0.288, 0.883, 0.328),
            (0.909, 0.247, 0.894, 0.294),
            (0.922, 0.211, 0.899, 0.276),
        ),
        schedule=_one_cycle,
    ),
}
"""Rows of the table, by name."""
