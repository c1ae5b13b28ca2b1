"""Robbins-Monro conditions on a schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dashpot.analysis.power_fit import PowerFit, checked_rates, power_fit
from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.analysis.schedule_tails import Tail, tail_of
from dashpot.analysis.travel import Reach, rates, reach
from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.figures import color, label_lines, new_figure
from dashpot.schedules import Plateau, Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BOUNDARY = 0.01
"""Largest excess over the exponents 1/2 and 1 that counts as equal, since fits do not resolve logarithmic factors."""

_FLAT = 0.05
"""Exponents below this count as no decay."""


@dataclass(frozen=True)
class StepConditions(Analysis):
    """Robbins-Monro conditions on a learning rate eta_t.

    Attributes:
        verdict: "satisfied" or "not satisfied" (from the formula of the schedule), "not applicable" (the schedule
            ends), "consistent" or "not consistent" (from a fit to finitely many values, which proves nothing).
        vanishes, sum_diverges, squares_converge: The three conditions; None if the schedule ends.
        reason: Explanation of the verdict.
        power: Exponent p of eta_t = c t^-p; None unless the rate follows a power.
        fit: The fitted power law; None if the verdict follows from the formula.
        reach: Sums of the rate, or None if they are unknown.
        values: Rates that the figure shows.
    """

    verdict: str
    vanishes: bool | None
    sum_diverges: bool | None
    squares_converge: bool | None
    reason: str
    power: float | None = None
    fit: PowerFit | None = None
    reach: Reach | None = None
    values: tuple[float, ...] = ()

    @property
    def satisfied(self) -> bool | None:
        """True or False if the formula of the schedule decides; None for a schedule that ends and for a fit."""
        return {"satisfied": True, "not satisfied": False}.get(self.verdict)

    def summary(self) -> str:
        """Return the verdict and its reason."""
        heads = {
            "satisfied": "The Robbins-Monro conditions are satisfied",
            "not satisfied": "The Robbins-Monro conditions are not satisfied",
            "not applicable": "The Robbins-Monro conditions do not apply",
            "consistent": "The values are consistent with the Robbins-Monro conditions",
            "not consistent": "The values are not consistent with the Robbins-Monro conditions",
        }
        return f"{heads[self.verdict]}: {self.reason}."

    def quantities(self) -> list[Quantity]:
        """Return the conditions, the exponent, and the sums."""
        rows = [
            Quantity("verdict", self.verdict, "whether all conditions hold"),
            Quantity("vanishes", self.vanishes, "rate converges to 0"),
            Quantity("sum_diverges", self.sum_diverges, "sum of the rate is infinite"),
            Quantity("squares_converge", self.squares_converge, "sum of the squared rate is finite"),
            Quantity("power", self.power, "exponent p of a rate proportional to t^-p"),
        ]
        if self.reach is None:
            return rows
        sums = {item.name: item.value for item in self.reach.quantities()}
        rows.append(Quantity("total", sums["total"], "sum of the rate"))
        return [*rows, Quantity("squares", sums["squares"], "sum of the squared rate")]

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the rate over the steps with logarithmic axes, and the powers t^-1/2 and t^-1."""
        figure, (axes,) = new_figure("robbins_monro", size=(6.4, 3.6), ax=ax)
        places = [(step + 1, rate) for step, rate in enumerate(self.values) if rate > 0]
        if places:
            axes.loglog(*zip(*places, strict=True), label="rate", color=color(0))
            top, length = places[0][1], places[-1][0]
            for power, label in ((0.5, "t^(-1/2)"), (1.0, "1/t")):
                ends = [top, top * length**-power]
                axes.loglog([1, length], ends, linestyle="--", linewidth=1, color=color("muted"), label=label)
            label_lines(axes)
        axes.set_xlabel("step t")
        axes.set_ylabel("rate")
        return figure


def robbins_monro(schedule: Any, base: float = 1.0, *, steps: int = 100_000) -> StepConditions:
    """Check the conditions of Robbins and Monro on a schedule of the learning rate.

        eta_t >= 0,    eta_t -> 0,    sum eta_t = infinity,    sum eta_t^2 < infinity

    | schedule | eta_t -> 0 | infinite sum | finite sum of squares | verdict |
    |---|---|---|---|---|
    | constant, periodic, with restarts, on a plateau | no | yes | no | not satisfied |
    | c/(1 + k t) | yes | yes | yes | satisfied |
    | t^-p | p > 0 | p <= 1 | p > 1/2 | satisfied for 1/2 < p <= 1 |
    | geometric | yes | no | yes | not satisfied: finite reach |
    | ends after N steps | - | - | - | not applicable |

    A warm-up that reaches a positive factor changes none of these verdicts. The verdict on a named schedule follows
    from its formula. For a function or a user-defined schedule, the exponent p is the least-squares slope of log eta_t
    on log t for steps/2 < t <= steps, and the verdict is "consistent" at best.

    Args:
        schedule: A `Schedule`, a `Plateau`, a torch scheduler (the rate of its first group), or a function of the step.
        base: Rate that the factors multiply, > 0.
        steps: Number of values for a fit, at least 10 000.

    Raises:
        ArgumentError: If an argument is out of range, a rate is negative or not finite, or the rate is 0 between
            positive rates, so that no power law can be fitted.

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951.

    Example:
        >>> from dashpot.schedules import Cosine, Exponential, InverseTime
        >>> from dashpot.analysis import robbins_monro
        >>> [robbins_monro(s).verdict for s in (InverseTime(0.1), Exponential(0.99), Cosine(100))]
        ['satisfied', 'not satisfied', 'not applicable']
        >>> found = robbins_monro(lambda step: 0.1 * (step + 1) ** -0.75)
        >>> found.verdict, round(found.power, 6), found.satisfied
        ('consistent', 0.75, None)
    """
    check("robbins_monro", "base", base, Interval(0))
    check("robbins_monro", "steps", steps, Interval(10_000, math.inf, "left", integer=True))
    kinds = (Schedule, Plateau, LRScheduler, ReduceLROnPlateau)
    if not isinstance(schedule, kinds) and not callable(schedule):
        raise ArgumentError(
            "robbins_monro: schedule must be a Schedule, a Plateau, a torch scheduler or a function of the step, "
            f"got {shown(schedule)}."
        )
    tail = tail_of(schedule)
    if tail is not None:
        return _from_formula(schedule, tail, base)
    return _from_values(checked_rates("robbins_monro", rates(schedule, steps, base)))


def _from_formula(schedule: Any, tail: Tail, base: float) -> StepConditions:
    sums = _sums(schedule, tail, base)
    shared: dict[str, Any] = {"reach": sums, "values": () if sums is None else sums.values}
    if tail.zero:
        return StepConditions("not satisfied", True, False, True, "the rate is 0 at every step", **shared)
    if tail.ends is not None:
        reason = f"the schedule is {tail.words}"
        if sums is not None:
            reason += f"; the rates sum to {text_of(sums.total)}, their squares to {text_of(sums.squares)}"
        return StepConditions("not applicable", None, None, None, reason, **shared)
    if tail.growth != 0:
        return _exponential(tail, sums, shared)
    vanishes, diverges, converge = tail.power > 0, tail.power <= 1, tail.power > 0.5
    if not vanishes:
        reason = f"the rate is {tail.words} and does not converge to 0"
        return StepConditions("not satisfied", False, True, False, reason, **shared)
    verdict = "satisfied" if diverges and converge else "not satisfied"
    return StepConditions(verdict, True, diverges, converge, _power_reason(tail.power), tail.power, **shared)


def _exponential(tail: Tail, sums: Reach | None, shared: dict[str, Any]) -> StepConditions:
    if tail.growth > 0:
        return StepConditions("not satisfied", False, True, False, "the rate grows without bound", **shared)
    total = None if sums is None else sums.total_limit
    bound = "" if total is None else f" of {text_of(total)}"
    reason = f"the rate decays geometrically, so that its sum is finite: the weights have a finite reach{bound}"
    return StepConditions("not satisfied", True, False, True, reason, **shared)


def _power_reason(power: float) -> str:
    head = f"the rate is proportional to {'1/t' if power == 1 else f't^-{text_of(power)}'}"
    if power > 1:
        return f"{head}, so that its sum is finite"
    return head if power > 0.5 else f"{head}, so that the sum of its squares is infinite"


def _sums(schedule: Any, tail: Tail, base: float) -> Reach | None:
    if isinstance(schedule, Schedule):
        return reach(schedule, base=base)
    if isinstance(schedule, LRScheduler) and tail.ends is not None:
        return reach(schedule, steps=tail.ends)
    return None


def _from_values(values: list[float]) -> StepConditions:
    end = len(values)
    while end and values[end - 1] == 0:
        end -= 1
    shared: dict[str, Any] = {"values": tuple(values)}
    if end < len(values):
        reason = f"the rate is 0 from step {end} on, so that its sum is finite, {text_of(math.fsum(values))}"
        return StepConditions("not consistent", True, False, True, reason, **shared)
    if 0 in values[len(values) // 2 :]:
        raise ArgumentError(
            f"robbins_monro: the rate must be positive to fit a power of t, got 0 at {values.index(0, end // 2)}."
        )
    fit = power_fit(values)
    p = fit.power
    found = f"the rate decays like t^-{p:.2f} over the last {len(values) // 2} of {len(values)} steps"
    shared |= {"power": p, "fit": fit}
    if p < _FLAT:
        reason = f"the rate does not decay over the last {len(values) // 2} of {len(values)} steps"
        return StepConditions("not consistent", False, True, False, reason, **shared)
    if p <= 0.5 + _BOUNDARY:
        reason = f"{found}, so that the sum of its squares appears to be infinite"
        return StepConditions("not consistent", True, True, False, reason, **shared)
    if p <= 1 + _BOUNDARY:
        return StepConditions("consistent", True, True, True, found, **shared)
    return StepConditions(
        "not consistent", True, False, True, f"{found}, so that its sum appears to be finite", **shared
    )
