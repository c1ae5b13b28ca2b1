"""Hyperparameters of Adam that do not depend on the batch size, as in the TTIC 31230 slides, with corrections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.rounding import tidy
from dashpot.constraints import ARGUMENTS, Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.figures import color, label_lines, new_figure
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter, SecondMoment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH = Interval(1, math.inf, "left", integer=True)
_HORIZON = Interval(1, math.inf, "left")


class Correction(NamedTuple):
    """A formula as printed on the slides, its value, the correct formula and value, and the reason."""

    printed: str
    printed_value: float
    correct: str
    value: float
    reason: str


@dataclass(frozen=True)
class Decoupled(Analysis):
    """Adam's settings for batches of B examples.

    Attributes:
        lr: Learning rate eps B lr0 = sqrt(B) eps0 lr0.
        betas: Poles 1 - 1/N_g and 1 - 1/N_s.
        eps: eps0/sqrt(B), added to the root of the second moment.
        horizons: Averaging lengths (N_g, N_s) in batches.
        batch: Batch size B.
        lr0, horizons0, eps0: The arguments.
    """

    lr: float
    betas: tuple[float, float]
    eps: float
    horizons: tuple[float, float]
    batch: int
    lr0: float
    horizons0: tuple[float, float]
    eps0: float

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments of `dp.Adam` and `dp.AdamW`."""
        return {"lr": self.lr, "betas": self.betas, "eps": self.eps}

    @property
    def recipe(self) -> Recipe:
        """The slides' form of Adam, whose averages are arithmetic means until step N."""
        moment = SecondMoment(self.betas[1], self.eps, average="running")
        return Recipe(Filter(self.betas[0], normalise="running", slot="exp_avg"), moment, lr=self.lr)

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The formulas of the slides that differ from the formulas used here."""
        (n_g0, n_s0), root = self.horizons0, math.sqrt(self.batch)
        reason = "an average has at least one sample; min limits N to 1 and disables the averages"
        return (
            Correction("min(1, N_g0/B)", min(1.0, n_g0 / self.batch), "max(1, N_g0/B)", self.horizons[0], reason),
            Correction("min(1, N_s0/B)", min(1.0, n_s0 / self.batch), "max(1, N_s0/B)", self.horizons[1], reason),
            Correction(
                "eps0 sqrt(B)",
                self.eps0 * root,
                "eps0/sqrt(B)",
                self.eps,
                "the second moment of a mean of B gradients is proportional to 1/B",
            ),
            Correction(
                "eps B lr0, eps = eps0 sqrt(B)",
                self.eps0 * root * self.batch * self.lr0,
                "eps B lr0, eps = eps0/sqrt(B)",
                self.lr,
                "if eps dominates, lr/eps = B lr0 is the linear rule; with this eps, lr is proportional to sqrt(B)",
            ),
        )

    def summary(self) -> str:
        """Return the settings and their property."""
        text = (
            f"For batches of {self.batch}, Adam has lr {text_of(self.lr)}, betas {text_of(self.betas[0])} and "
            f"{text_of(self.betas[1])}, and eps {text_of(self.eps)}: the step is B lr0 g if eps dominates the "
            "denominator, and lr/d is proportional to B in noise as well."
        )
        clamped = [name for name, n in zip(("N_g", "N_s"), self.horizons, strict=True) if n == 1]
        if clamped and self.batch > 1:
            text += f" The batch covers {' and '.join(clamped)}, which cannot decrease further."
        return text

    def quantities(self) -> list[Quantity]:
        """Return the settings, and the values that the printed formulas would give."""
        rows = [
            Quantity("lr", self.lr, "learning rate, sqrt(B) eps0 lr0"),
            Quantity("betas", list(self.betas), "poles, 1 - 1/N"),
            Quantity("eps", self.eps, "eps0/sqrt(B)"),
            Quantity("horizons", list(self.horizons), "averaging lengths (N_g, N_s) in batches"),
        ]
        names = ("N_g", "N_s", "eps", "lr")
        for name, item in zip(names, self.corrections, strict=True):
            rows.append(Quantity(f"printed_{name}", item.printed_value, f"{item.printed} on the slides: {item.reason}"))
        return rows

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw lr, eps and the horizons over the batch size, relative to their values for one example."""
        figure, (axes,) = new_figure("Decoupled.plot", size=(6.4, 3.6), ax=ax)
        batches = np.unique(np.geomspace(1, max(self.batch, 1024), 41).astype(int))
        points = [decouple(self.lr0, self.horizons0, self.eps0, int(b)) for b in batches]
        lines = {
            "lr": [p.lr / points[0].lr for p in points],
            "eps": [p.eps / points[0].eps for p in points],
            "N_g": [p.horizons[0] / points[0].horizons[0] for p in points],
            "N_s": [p.horizons[1] / points[0].horizons[1] for p in points],
        }
        for index, (label, values) in enumerate(lines.items()):
            axes.loglog(batches, values, label=label, color=color(index), linestyle="--" if label == "N_s" else "-")
        axes.axvline(self.batch, color=color("muted"), linewidth=1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("batch size")
        axes.set_ylabel("setting")
        axes.set_title("Settings relative to those for one example")
        label_lines(axes)
        return figure


def decouple(lr0: float, N0: float | tuple[float, float], eps0: float, B: int) -> Decoupled:
    """Return Adam's settings for batches of B examples, from settings that do not depend on B.

        N_g = max(1, N_g0/B),    N_s = max(1, N_s0/B),    beta = 1 - 1/N
        eps = eps0/sqrt(B),      lr = eps B lr0 = sqrt(B) eps0 lr0

    If eps dominates the denominator, the step is (lr/eps) g = B lr0 g, the linear rule of SGD. If gradient noise of
    standard deviation sigma/sqrt(B) dominates, lr/d = B eps0 lr0/sigma is proportional to B as well. The slides print
    min in place of max, and eps0 sqrt(B), see `Decoupled.corrections`.

    Args:
        lr0: Rate per example of SGD, > 0.
        N0: Averaging length in examples, >= 1, or the pair (N_g0, N_s0) for the gradient and its square.
        eps0: Value of eps for one example, > 0.
        B: Batch size, an integer >= 1.

    Raises:
        ArgumentError: If an argument is out of range.

    Source: TTIC 31230 lecture notes, with corrections; Malladi et al., arXiv 2205.10287.

    Example:
        >>> from dashpot.analysis import decouple
        >>> decouple(lr0=1.0, N0=(640, 64_000), eps0=8e-4, B=64).settings
        {'lr': 0.0064, 'betas': (0.9, 0.999), 'eps': 0.0001}
    """
    check("decouple", "lr0", lr0, Interval(0))
    check("decouple", "eps0", eps0, Interval(0))
    check("decouple", "B", B, _BATCH)
    pair: Any = tuple(N0) if isinstance(N0, (tuple, list)) and len(N0) == 2 else (N0, N0)
    for value in pair:
        if not _HORIZON.allows(value):
            raise ArgumentError(f"decouple: N0 must be {_HORIZON} or a pair of such numbers, got {shown(N0)}.")
    n_g, n_s = (max(1.0, float(value) / B) for value in pair)
    betas = (tidy(1 - 1 / n_g), tidy(1 - 1 / n_s))
    eps = tidy(eps0 / math.sqrt(B))
    check("decouple", "eps0/sqrt(B)", eps, ARGUMENTS["eps"])
    return Decoupled(
        lr=tidy(math.sqrt(B) * eps0 * lr0),
        betas=betas,
        eps=eps,
        horizons=(n_g, n_s),
        batch=B,
        lr0=float(lr0),
        horizons0=(float(pair[0]), float(pair[1])),
        eps0=float(eps0),
    )
