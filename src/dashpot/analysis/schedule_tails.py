"""Asymptotic form of a schedule: eta_t = c(t) exp(growth t) t^-power with bounded c, or a last step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    ExponentialWarmup,
    InverseTime,
    Linear,
    LinearWarmup,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    OriginalWindow,
    Plateau,
    Polynomial,
    Product,
    Schedule,
    Sequence,
    StepDecay,
    Window,
)


@dataclass(frozen=True)
class Tail:
    """Behaviour of eta_t for t -> infinity.

    Attributes:
        words: Description of the tail, such as "constant" or "periodic".
        growth: Logarithm of the factor per step; negative for geometric decay.
        power: Exponent p of t^-p.
        ends: Number of steps after which the schedule only holds its final value; None without an end.
        period: Length of one period in steps; None if the schedule is not periodic.
        zero: Whether the schedule is 0 at all steps.
    """

    words: str
    growth: float = 0.0
    power: float = 0.0
    ends: int | None = None
    period: int | None = None
    zero: bool = False


def tail_of(schedule: Any) -> Tail | None:
    """Return the tail of a named schedule or torch scheduler; None for a schedule whose form is unknown.

    >>> tail_of(InverseTime(0.1))
    Tail(words='proportional to 1/t', growth=0.0, power=1.0, ends=None, period=None, zero=False)
    """
    read = _TAILS.get(type(schedule))  # a user-defined subclass may compute other values
    return None if read is None else read(schedule)


def _constant(schedule: Constant) -> Tail:
    return Tail("constant", zero=schedule.factor == 0)


def _level(schedule: Any) -> Tail:
    del schedule
    return Tail("constant after the warm-up")


def _inverse_time(schedule: InverseTime) -> Tail:
    return Tail("proportional to 1/t", power=1.0) if schedule.rate > 0 else Tail("constant")


def _geometric(factor: float, every: int = 1) -> Tail | None:
    if factor <= 0:  # torch allows a factor of 0
        return None
    words = "constant" if factor == 1 else "geometric decay" if factor < 1 else "geometric growth"
    return Tail(words, growth=math.log(factor) / every)


def _drops(schedule: Any) -> Tail:
    del schedule
    return Tail("constant after the last milestone")


def _ramp(start: float, end: float, steps: int) -> Tail:
    if start == end == 0:
        return Tail("constant", zero=True)
    return Tail("constant after the warm-up") if end >= start else _ends(steps)


def _ends(steps: int) -> Tail:
    return Tail(f"a decay that ends after {steps} steps", ends=steps)


def _periodic(period: int | None) -> Tail:
    return Tail("periodic" if period else "restarted without end", period=period)


def _sequence(schedule: Sequence) -> Tail | None:
    return _after(schedule.milestones[-1], tail_of(schedule.parts[-1]))


def _after(milestone: int, last: Tail | None) -> Tail | None:
    """Return the tail of a schedule whose last part starts at `milestone`."""
    if last is None or (last.ends is None and not last.zero):
        return last
    return _ends(milestone + (last.ends or 0))


def _product(schedule: Product) -> Tail | None:
    tails = [tail_of(part) for part in schedule.parts]
    known = [tail for tail in tails if tail is not None]
    if len(known) < len(tails):
        return None
    ends = [tail.ends for tail in known if tail.ends is not None]
    if ends:
        return _ends(max(ends))
    rates = [tail.growth for tail in known]
    growth = math.fsum(rates)
    if abs(growth) <= 1e-12 * math.fsum(map(abs, rates)):  # rounding errors of logarithms
        growth = 0.0
    leading = max(known, key=lambda tail: (tail.growth != 0, tail.power, tail.period is not None))
    words = "constant" if growth == leading.power == 0 and leading.growth else leading.words
    return Tail(words, growth, math.fsum(tail.power for tail in known), zero=any(tail.zero for tail in known))


def _no_rate(schedule: OneCycleMomentum) -> Tail:
    raise ArgumentError(
        f"A schedule of the learning rate is required, got {shown(schedule)}, whose values are the momentum."
    )


def _sequential(scheduler: Any) -> Tail | None:
    return _after(scheduler._milestones[-1], tail_of(scheduler._schedulers[-1]))


def _lambda(scheduler: Any) -> Tail | None:
    return tail_of(scheduler.lr_lambdas[0])


_TAILS: Mapping[type, Callable[[Any], Tail | None]] = {
    Constant: _constant,
    Cosine: lambda s: _ends(s.steps) if s.after == "hold" else _periodic(2 * s.steps),
    CosineRestarts: lambda s: _periodic(s.first if s.mult == 1 else None),
    Cyclic: lambda s: _periodic(s.up + (s.up if s.down is None else s.down)),
    Exponential: lambda s: _geometric(s.factor),
    ExponentialWarmup: _level,
    InverseTime: _inverse_time,
    Linear: lambda s: _ramp(s.start, s.end, s.steps),
    LinearWarmup: _level,
    MultiStep: _drops,
    OneCycle: lambda s: _ends(s.steps),
    OneCycleMomentum: _no_rate,
    OriginalWindow: lambda s: _periodic(s.steps),
    Plateau: lambda s: Tail("reduced only when a metric stops improving"),
    Polynomial: lambda s: _ends(s.steps),
    Product: _product,
    Sequence: _sequence,
    StepDecay: lambda s: _geometric(s.factor, s.every),
    Window: lambda s: _periodic(s.steps),
    torch_schedulers.ConstantLR: _drops,
    torch_schedulers.CosineAnnealingLR: lambda s: _periodic(2 * s.T_max),
    torch_schedulers.CosineAnnealingWarmRestarts: lambda s: _periodic(s.T_0 if s.T_mult == 1 else None),
    torch_schedulers.CyclicLR: lambda s: _periodic(round(s.total_size)) if s.mode == "triangular" else None,
    torch_schedulers.ExponentialLR: lambda s: _geometric(s.gamma),
    torch_schedulers.LambdaLR: _lambda,
    torch_schedulers.LinearLR: lambda s: _ramp(s.start_factor, s.end_factor, s.total_iters),
    torch_schedulers.MultiStepLR: _drops,
    torch_schedulers.OneCycleLR: lambda s: _ends(s.total_steps),
    torch_schedulers.PolynomialLR: lambda s: _ends(s.total_iters),
    torch_schedulers.ReduceLROnPlateau: lambda s: Tail("reduced only when a metric stops improving"),
    torch_schedulers.SequentialLR: _sequential,
    torch_schedulers.StepLR: lambda s: _geometric(s.gamma, s.step_size),
}


def transient(schedule: Schedule) -> int:
    """Return a number of steps after which a named schedule follows its tail: lengths of ramps and milestones."""
    if isinstance(schedule, Sequence):
        return schedule.milestones[-1] + transient(schedule.parts[-1])
    if isinstance(schedule, Product):
        return max(map(transient, schedule.parts))
    if isinstance(schedule, MultiStep):
        return schedule.milestones[-1]
    if isinstance(schedule, ExponentialWarmup):
        return 0 if schedule.rho == 0 else math.ceil(40 / -math.log(schedule.rho))  # exp(-40) is below 1 ulp
    if isinstance(schedule, (Cyclic, CosineRestarts)):
        return tail.period if (tail := tail_of(schedule)) and tail.period else schedule.first  # pyright: ignore
    return getattr(schedule, "steps", 0) * (2 if getattr(schedule, "after", "hold") == "rise" else 1)
