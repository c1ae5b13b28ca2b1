"""Schedules as HTML for notebooks: a small curve, drawn without matplotlib, and the `repr`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dashpot.schedules.combine import Product, Sequence
from dashpot.schedules.cycle import Cyclic
from dashpot.schedules.decay import Exponential, InverseTime, MultiStep, StepDecay
from dashpot.schedules.ramp import CosineRestarts, ExponentialWarmup
from dashpot.schedules.window import Window
from dashpot.utils.html import element, escape

if TYPE_CHECKING:
    from dashpot.schedules.schedule import Schedule

WIDTH, HEIGHT, POINTS = 160, 36, 160
_MARGIN = 2
_WITHOUT_LENGTH = 100
_LONGEST = 10**9


def schedule_html(schedule: Schedule) -> str:
    """Return a curve of the first `span` steps, and the `repr`."""
    return element("span", _curve(schedule) + escape(repr(schedule)), "font-size:.9em;line-height:1.4")


def span(schedule: Schedule) -> int:
    """Return a number of steps that shows the shape of a schedule: its length, or two periods, or a tenfold decay.

    >>> from dashpot.schedules import Constant, Cosine, Cyclic, LinearWarmup, Sequence
    >>> span(Sequence((LinearWarmup(10), Cosine(90)), milestones=(10,))), span(Cyclic(up=20)), span(Constant())
    (100, 79, 100)
    """
    if isinstance(schedule, Sequence):
        return schedule.milestones[-1] + span(schedule.parts[-1])
    if isinstance(schedule, Product):
        return max(map(span, schedule.parts))
    if isinstance(schedule, MultiStep):
        return schedule.milestones[-1] + max(1, schedule.milestones[-1] // 4)
    steps = _two_periods(schedule) or getattr(schedule, "steps", None) or _tenfold(schedule)
    return steps if isinstance(steps, int) and 0 < steps <= _LONGEST else _WITHOUT_LENGTH


def _two_periods(schedule: Schedule) -> int | None:
    """Return the number of steps of two periods without the last, or None for a schedule without a period."""
    if isinstance(schedule, Window):
        return 2 * schedule.steps - 1
    if isinstance(schedule, CosineRestarts):
        return schedule.first * (1 + schedule.mult) - 1
    return 2 * (schedule.up + (schedule.down or schedule.up)) - 1 if isinstance(schedule, Cyclic) else None


def _tenfold(schedule: Schedule) -> int | None:
    """Return the number of steps in which a schedule without end changes tenfold, or None."""
    if isinstance(schedule, StepDecay):
        return 4 * schedule.every
    if isinstance(schedule, InverseTime) and schedule.rate > 0:
        return round(9 / schedule.rate) * (schedule.interval or 1)
    if isinstance(schedule, Exponential) and schedule.factor != 1:
        return math.ceil(math.log(10) / abs(math.log(schedule.factor)))
    return round(5 / (1 - schedule.rho)) if isinstance(schedule, ExponentialWarmup) else None


def _curve(schedule: Schedule) -> str:
    steps = span(schedule)
    count = min(POINTS, steps + 1)
    places = [round(i * steps / max(1, count - 1)) for i in range(count)]
    try:
        values = [schedule(step) for step in places]
    except (ArithmeticError, ValueError):  # the curve is an addition to the repr
        return ""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return ""
    low, high = min(0.0, *values), max(values)
    across = (WIDTH - 2 * _MARGIN) / steps
    up = (HEIGHT - 2 * _MARGIN) / ((high - low) or 1.0)
    points = " ".join(
        f"{_MARGIN + place * across:.1f},{HEIGHT - _MARGIN - (value - low) * up:.1f}"
        for place, value in zip(places, values, strict=True)
    )
    title = f"Steps 0 to {steps}: from {values[0]:.3g} to {values[-1]:.3g}, highest value {max(values):.3g}"
    line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    base = HEIGHT - _MARGIN + low * up
    axis = f'<path d="M{_MARGIN} {base:.1f}H{WIDTH - _MARGIN}" stroke="currentColor" stroke-opacity=".3"/>'
    return element(
        "svg",
        f"<title>{escape(title)}</title>{axis}{line}",
        "vertical-align:middle;margin-right:.6em",
        width=str(WIDTH),
        height=str(HEIGHT),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )
