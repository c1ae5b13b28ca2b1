"""Schedules that the command line creates by name for a given number of steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from dashpot.constraints import Interval, check, unknown
from dashpot.errors import ArgumentError
from dashpot.schedules.combine import Sequence
from dashpot.schedules.cycle import OneCycle, OneCycleMomentum
from dashpot.schedules.decay import Constant, Exponential, InverseTime, StepDecay
from dashpot.schedules.ramp import Cosine, CosineRestarts, LinearWarmup, Polynomial
from dashpot.schedules.ranges import FACTOR, FRACTION, STEPS
from dashpot.schedules.schedule import Schedule
from dashpot.schedules.window import Window
from dashpot.utils.format import typed


def _constant(steps: int) -> Schedule:
    return Constant()


def _linear(steps: int, floor: float = 0.0) -> Schedule:
    return Polynomial(steps, floor=floor)


def _cosine_restarts(steps: int, cycles: int = 3, mult: int = 1, floor: float = 0.0) -> Schedule:
    check("cosine-restarts", "cycles", cycles, STEPS)
    check("cosine-restarts", "mult", mult, STEPS)
    lengths = sum(mult**cycle for cycle in range(cycles))
    return CosineRestarts(first=-(-steps // lengths), mult=mult, floor=floor)


def _exponential(steps: int, final: float = 0.01) -> Schedule:
    check("exponential", "final", final, FACTOR)
    return Exponential(final ** (1 / steps))


def _inverse_time(steps: int, final: float = 0.1) -> Schedule:
    check("inverse-time", "final", final, Interval(0, 1, "right"))
    return InverseTime((1 / final - 1) / steps)


def _step(steps: int, drops: int = 2, factor: float = 0.1) -> Schedule:
    check("step", "drops", drops, STEPS)
    return StepDecay(factor, every=-(-steps // (drops + 1)))


def _warmup(steps: int, warmup: float = 0.1, start: float = 0.01) -> Schedule:
    return _warmed(steps, warmup, start, lambda rest: Constant())


def _warmup_linear(steps: int, warmup: float = 0.1, start: float = 0.01, floor: float = 0.0) -> Schedule:
    return _warmed(steps, warmup, start, lambda rest: Polynomial(rest, floor=floor))


def _warmup_cosine(steps: int, warmup: float = 0.1, start: float = 0.01, floor: float = 0.0) -> Schedule:
    return _warmed(steps, warmup, start, lambda rest: Cosine(rest, floor=floor))


def _warmed(steps: int, warmup: float, start: float, then: Callable[[int], Schedule]) -> Schedule:
    """Return a linear warm-up over the fraction `warmup` of the steps, then the schedule `then(remaining steps)`."""
    check("warm-up", "warmup", warmup, FRACTION)
    length = round(warmup * steps)
    if length == 0:
        return then(steps)
    return Sequence((LinearWarmup(length, start), then(max(1, steps - length))), milestones=(length,))


NAMES: Mapping[str, Callable[..., Schedule]] = {
    "constant": _constant,
    "linear": _linear,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "cosine-restarts": _cosine_restarts,
    "exponential": _exponential,
    "inverse-time": _inverse_time,
    "step": _step,
    "1cycle": OneCycle,
    "1cycle-momentum": OneCycleMomentum,
    "window": Window,
    "warmup": _warmup,
    "warmup-linear": _warmup_linear,
    "warmup-cosine": _warmup_cosine,
}
"""Functions that create the named schedules; their parameters after `steps` are the options of a schedule."""


def from_name(name: str, steps: int, **options: Any) -> Schedule:
    """Return the schedule with the given name for a run of `steps` steps.

    | name | options (defaults) | schedule |
    |---|---|---|
    | constant | | constant |
    | linear | floor (0) | linear decay |
    | polynomial | power (1), floor (0) | `Polynomial` |
    | cosine | floor (0), after ("hold") | `Cosine` |
    | cosine-restarts | cycles (3), mult (1), floor (0) | cosine cycles, each `mult` times as long as the previous one |
    | exponential | final (0.01) | exponential decay to `final` |
    | inverse-time | final (0.1) | inverse-time decay to `final` |
    | step | drops (2), factor (0.1) | multiplication by `factor` at equal intervals |
    | 1cycle | options of `OneCycle` | `OneCycle`, relative to the peak |
    | 1cycle-momentum | options of `OneCycleMomentum` | `OneCycleMomentum`, absolute values |
    | window | shape (required), other options of `Window` | one `Window` |
    | warmup | warmup (0.1), start (0.01) | linear warm-up over the fraction `warmup` of the steps |
    | warmup-linear, warmup-cosine | warmup (0.1), start (0.01), floor (0) | warm-up, then linear or cosine decay |

    Raises:
        ArgumentError: If the name or an option is unknown (with a suggestion), or a value is out of range.

    >>> from_name("warmup-cosine", 100, floor=0.1).table(11)[::5]
    [0.01, 0.505, 1.0]
    >>> from_name("1cicle", 100)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: Unknown schedule '1cicle': did you mean '1cycle'? ...
    """
    if name not in NAMES:
        raise unknown("schedule", name, NAMES)
    check(f"Schedule {name!r}", "steps", steps, STEPS)
    build = NAMES[name]
    allowed = {key: item for key, item in inspect.signature(build).parameters.items() if key != "steps"}
    for option in options:
        if option not in allowed:
            raise unknown(f"option of schedule {name!r}", option, allowed)
    for option, item in allowed.items():
        if item.default is inspect.Parameter.empty and option not in options:
            raise ArgumentError(f"Schedule {name!r}: option {option!r} is missing.")
    return build(steps=steps, **options)


def split_name(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME:OPTION=VALUE,OPTION=VALUE` into the name and the options.

    Raises:
        ArgumentError: If an option has no value or is repeated.

    >>> split_name("warmup-cosine:warmup=0.05,floor=0.1"), split_name("cosine")
    (('warmup-cosine', {'warmup': 0.05, 'floor': 0.1}), ('cosine', {}))
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for item in rest.split(",") if rest else ():
        option, equals, value = item.partition("=")
        if not equals or not option or not value or option in options:
            raise ArgumentError(f"Schedule {name!r}: options must be distinct OPTION=VALUE pairs, got {item!r}.")
        options[option] = typed(value)
    return name, options
