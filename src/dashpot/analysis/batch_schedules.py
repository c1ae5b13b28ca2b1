"""Schedules for a different batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dashpot.analysis.batch_plan import Change
from dashpot.analysis.batch_rules import Scaling
from dashpot.analysis.rounding import tidy
from dashpot.analysis.time_scaling import rescaled, with_faster_poles
from dashpot.schedules import Constant, Product, Schedule

_POLES = ("pole", "momentum", "beta", "alpha", "betas[0]", "betas[1]")
_FILTER_POLES = ("pole", "momentum", "betas[0]")


class ScaledSchedules(NamedTuple):
    """New schedules by setting, the changed ones, and conditions as sentences."""

    schedule: dict[str, Schedule]
    changes: tuple[Change, ...]
    limits: list[str]


def scale_schedules(schedules: Mapping[str, Schedule], scaling: Scaling, lr_factor: float) -> ScaledSchedules:
    """Rescale schedules to 1/ratio of their steps.

    Args:
        schedules: Schedules by setting.
        scaling: The change of the batch size.
        lr_factor: Factor on the learning rate, for schedules whose values replace the learning rate.
    """
    new: dict[str, Schedule] = {}
    changes: list[Change] = []
    limits: list[str] = []
    for name, schedule in schedules.items():
        found = rescaled(schedule, scaling.ratio)
        if found is None:
            new[name] = schedule
            limits.append(
                f"The schedule of {name}, {type(schedule).__name__}, is user-defined and unchanged: the same "
                f"number of examples has {_share(scaling.ratio)}."
            )
            continue
        new[name] = _values(name, found.schedule, scaling, lr_factor, limits)
        if new[name] != schedule:
            rounded = f"; rounded: {', '.join(found.rounded)}" if found.rounded else ""
            reason = f"the same number of examples has {_share(scaling.ratio)}{rounded}"
            changes.append(Change(f"schedule of {name}", schedule, new[name], reason))
    return ScaledSchedules(new, tuple(changes), limits)


def _share(ratio: float) -> str:
    """Return the number of steps for the same examples in words."""
    return f"1/{ratio:.6g} of the steps" if ratio > 1 else f"{1 / ratio:.6g} times as many steps"


def _values(name: str, schedule: Schedule, scaling: Scaling, lr_factor: float, limits: list[str]) -> Schedule:
    """Convert the values of an absolute schedule; those of a relative schedule multiply the converted setting."""
    if name not in _POLES:
        factor = tidy(lr_factor)
        return Product((schedule, Constant(factor))) if name == "lr" and schedule.absolute and factor != 1 else schedule
    if scaling.holds_momentum and name in _FILTER_POLES:
        return schedule
    if schedule.absolute:
        return with_faster_poles(schedule, scaling.progress)
    limits.append(f"The schedule of {name} multiplies the new value, which is exact only where its factor is 1.")
    return schedule
