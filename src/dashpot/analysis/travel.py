"""Distance that a schedule of the learning rate allows: sums of the rate and of its square."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dashpot.analysis.power_fit import checked_rates
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.schedule_sums import sum_of_powers
from dashpot.analysis.schedule_tails import tail_of, transient
from dashpot.constraints import Interval, Optional, check, shown
from dashpot.errors import ArgumentError
from dashpot.figures import color, new_figure
from dashpot.schedules import Plateau, Schedule
from dashpot.schedules.torch_values import simulate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = Interval(1, math.inf, "left", integer=True)
_DRAWN = 1000  # steps in the figure of a schedule without an end


@dataclass(frozen=True)
class Reach(Analysis):
    """Sums of a learning rate eta_t over the steps t = 0, 1, ...

    If no step has a direction longer than G, the weights move by at most G sum(eta_t) in total. If the directions are
    independent noise with standard deviation s, the weights move by about s sqrt(sum(eta_t^2)).

    Attributes:
        steps: Number of steps; None for the infinite sums.
        total: Sum of eta_t; infinite if the sum diverges, None if it is finite but has no closed form.
        squares: Sum of eta_t^2, in the same form.
        first, highest, last: First, highest and last value; without `steps`, `last` is the limit, or None without one.
        total_limit, squares_limit: Sums over infinitely many steps, or None if the form of the schedule is unknown.
        schedule: The schedule, or the name of its class.
    """

    steps: int | None
    total: float | None
    squares: float | None
    first: float
    highest: float
    last: float | None
    total_limit: float | None
    squares_limit: float | None
    schedule: Any
    values: tuple[float, ...] = ()

    @property
    def diffusion(self) -> float | None:
        """Square root of the sum of squares: the distance for directions of independent unit noise."""
        return None if self.squares is None else math.sqrt(self.squares)

    def summary(self) -> str:
        """Return the sums and their meaning."""
        span = "infinitely many steps" if self.steps is None else f"{self.steps} steps"
        if self.total is None:
            return f"Over {span}, the sum of the rate is finite, but has no closed form here; pass `steps`."
        if math.isinf(self.total):
            return (
                "The sum of the rate is infinite: with directions of bounded length, the weights can move any distance."
            )
        text = (
            f"Over {span}, the sum of the rate is {text_of(self.total)}: with directions of length at most 1, the "
            f"weights move by at most {text_of(self.total)}"
        )
        if self.diffusion is not None and math.isfinite(self.diffusion):
            text += f", and by about {text_of(self.diffusion)} if the directions are independent noise"
        return text + "."

    def quantities(self) -> list[Quantity]:
        """Return the sums and the first, highest and last rate."""
        rows = [
            ("total", self.total, "sum of the rate"),
            ("squares", self.squares, "sum of the squared rate"),
            ("diffusion", self.diffusion, "distance for independent unit noise, sqrt(squares)"),
            ("first", self.first, "rate of the first step"),
            ("highest", self.highest, "highest rate"),
            ("last", self.last, "rate of the last step" if self.steps is not None else "limit of the rate"),
            ("total_limit", self.total_limit, f"sum of the rate over infinitely many steps{self._held()}"),
            ("squares_limit", self.squares_limit, f"sum of the squared rate over infinitely many steps{self._held()}"),
        ]
        return [
            Quantity("steps", self.steps, "number of steps"),
            *(Quantity(name, _finite(value), meaning) for name, value, meaning in rows),
        ]

    def _held(self) -> str:
        """Return the condition of the infinite sums for a schedule that ends."""
        tail = tail_of(self.schedule) if isinstance(self.schedule, Schedule) else None
        return "" if tail is None or not tail.ends else ", holding the final value"

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the rate and its cumulative sum on two axes."""
        figure, (rates, sums) = new_figure("reach", rows=2, size=(6.4, 4.4), sharex=True, ax=ax)
        rates.step(range(len(self.values)), self.values, where="post", color=color(0))
        rates.set_ylabel("rate")
        sums.plot(range(1, len(self.values) + 1), np.cumsum(self.values), color=color(1))
        if self.total_limit is not None and math.isfinite(self.total_limit):
            sums.axhline(self.total_limit, linestyle="--", linewidth=1, color=color("muted"))
            place = (len(self.values), self.total_limit)
            sums.annotate(
                "infinitely many steps",
                place,
                (0, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                color=color("muted"),
            )
            sums.margins(y=0.15)
        sums.set_ylabel("sum of the rate")
        sums.set_xlabel("steps")
        return figure


def reach(schedule: Any, steps: int | None = None, base: float = 1.0) -> Reach:
    """Return the sums of a learning rate and of its square, and its first, highest and last value.

        total = sum_t eta_t,        squares = sum_t eta_t^2,        t = 0, ..., steps - 1

    For a geometric decay, the sum over infinitely many steps is finite: base/(1 - q).

    Args:
        schedule: A `Schedule`, a torch scheduler (the rate of its first group), or a function of the step.
        steps: Number of steps, >= 1. None: the length of a schedule that ends, otherwise infinitely many steps;
            required for torch schedulers without an end, for functions and for user-defined schedules.
        base: Rate that the factors multiply, in [0, inf); not used for torch schedulers.

    Raises:
        ArgumentError: If an argument is out of range, a rate is negative, or `steps` is required.

    Source: the conditions of Robbins and Monro, 1951.

    Example:
        >>> from dashpot.schedules import Exponential
        >>> from dashpot.analysis import reach
        >>> sums = reach(Exponential(0.99), base=0.1)
        >>> round(sums.total, 9), round(reach(Exponential(0.99), steps=100, base=0.1).total, 4)
        (10.0, 6.3397)
    """
    check("reach", "base", base, Interval(0, math.inf, "left"))
    check("reach", "steps", steps, Optional(_STEPS))
    if isinstance(schedule, (Plateau, ReduceLROnPlateau)):
        raise ArgumentError(f"reach: schedule must depend only on the step, got {_name(schedule)}.")
    is_torch = isinstance(schedule, LRScheduler)
    if not (is_torch or isinstance(schedule, Schedule) or callable(schedule)):
        raise ArgumentError(
            f"reach: schedule must be a Schedule, a torch scheduler or a function of the step, got {shown(schedule)}."
        )
    tail = tail_of(schedule)
    if steps is None and tail is not None and tail.ends is not None:
        steps = tail.ends
    if steps is None and (tail is None or is_torch):
        raise ArgumentError(
            f"reach: steps must be given for {_name(schedule)}, whose infinite sum is unknown, got None."
        )
    if steps is None:
        return _without_end(schedule, base)
    values = checked_rates("reach", rates(schedule, steps, base))
    total, squares = math.fsum(values), math.fsum(value * value for value in values)
    limit, squares_limit = _limits(schedule, base) if isinstance(schedule, Schedule) else (None, None)
    named = schedule if isinstance(schedule, Schedule) else _name(schedule)
    highest = max(values)
    return Reach(
        steps, total, squares, values[0], highest, values[-1], limit, squares_limit, named, values=tuple(values)
    )


def _without_end(schedule: Any, base: float) -> Reach:
    total, squares = _limits(schedule, base)
    values = checked_rates("reach", rates(schedule, _drawn(schedule), base))
    last = _limit_of_rate(schedule, base)
    highest = math.inf if last == math.inf else max(values)
    return Reach(None, total, squares, values[0], highest, last, total, squares, schedule, values=tuple(values))


def rates(schedule: Any, steps: int, base: float) -> list[float]:
    """Return the learning rates of the first `steps` steps."""
    if isinstance(schedule, LRScheduler):
        lines = simulate("reach", schedule, steps)["lr"]
        return next(iter(lines.values()))
    if isinstance(schedule, Schedule):
        return [schedule.value(base, step) for step in range(steps)]
    return [base * schedule(step) for step in range(steps)]


def _limits(schedule: Schedule, base: float) -> tuple[float | None, float | None]:
    scale = 1.0 if schedule.absolute else base
    if scale == 0:
        return 0.0, 0.0
    total, squares = sum_of_powers(schedule, 1), sum_of_powers(schedule, 2)
    return None if total is None else total * scale, None if squares is None else squares * scale * scale


def _limit_of_rate(schedule: Schedule, base: float) -> float | None:
    tail = tail_of(schedule)
    if tail is None or tail.period is not None or tail.words.startswith("restarted"):
        return None
    if tail.zero or tail.growth < 0 or (tail.growth == 0 and tail.power > 0):
        return 0.0
    return math.inf if tail.growth > 0 else schedule.value(base, _drawn(schedule))


def _drawn(schedule: Schedule) -> int:
    return max(_DRAWN, transient(schedule) + 1)


def _name(schedule: Any) -> str:
    return getattr(schedule, "__name__", type(schedule).__name__)


def _finite(value: float | None) -> float | str | None:
    return "infinite" if value is not None and math.isinf(value) else value
