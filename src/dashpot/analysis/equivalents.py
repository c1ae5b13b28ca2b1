"""Settings of other parametrizations with the same filter and the same effective learning rate."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from dashpot.analysis.rational_filter import RationalFilter
from dashpot.constraints import Interval, Optional, check
from dashpot.errors import ArgumentError
from dashpot.recipes.momentum_forms import Point, averaging_length, to_ema, to_heavy_ball, to_nesterov, to_qhm

_BATCH = Optional(Interval(1, math.inf, "left", integer=True))


class Equivalent(NamedTuple):
    """Settings of a parametrization, or None with the reason in `note`."""

    settings: dict[str, Any] | None
    note: str


def equivalents(section: RationalFilter, rate: float | None, batch: int | None = None) -> dict[str, Equivalent]:
    """Return the settings of each parametrization; `lr` is a factor if `rate` is None. See `Response.equivalents`."""
    check("equivalents", "batch", batch, _BATCH)
    lr = 1.0 if rate is None else rate
    names = ("torch_sgd", "average", "qhm", "autosgm", "filter", "length", *(() if batch is None else ("examples",)))
    form, note = section.first_order, _obstacle(section)
    if form is None or note:
        return {name: Equivalent(None, note) for name in names}
    point = Point(*form)
    found = {
        "torch_sgd": _torch_sgd(point, lr),
        "average": _average(point, lr),
        "qhm": _qhm(point, lr),
        "autosgm": _autosgm(point, lr),
        "filter": Equivalent({"lr": lr, **point._asdict()}, "dashpot.Filter(pole, zero, gain, normalise='none')"),
        "length": _length(point, lr),
    }
    if batch is not None:
        found["examples"] = _examples(point, lr, batch)
    return found


def _obstacle(section: RationalFilter) -> str:
    """Return the reason why no form has the filter; empty otherwise."""
    form = section.first_order
    if form is None:
        return f"The filter has order {section.order}; this form has one pole and one zero."
    if form[0] < 0:
        return "The pole is negative; this form has a pole in [0, 1)."
    return (
        ""
        if section.dc_gain > 0
        else "The DC gain is not positive; the learning rate of this form would not be either."
    )


def _torch_sgd(point: Point, lr: float) -> Equivalent:
    try:
        momentum, factor = to_heavy_ball(point)
        return Equivalent({"lr": lr * factor, "momentum": momentum}, "torch.optim.SGD: v = momentum v + g")
    except ArgumentError:
        pass
    try:
        momentum, factor = to_nesterov(point)
    except ArgumentError:
        return Equivalent(None, "torch.optim.SGD has the zeros 0 and, with nesterov=True, pole/(1 + pole) only.")
    settings = {"lr": lr * factor, "momentum": momentum, "nesterov": True}
    return Equivalent(settings, "torch.optim.SGD: v = momentum v + g, step g + momentum v")


def _average(point: Point, lr: float) -> Equivalent:
    try:
        beta, factor = to_ema(point)
    except ArgumentError:
        return Equivalent(None, "An average m = beta m + (1 - beta) g has the zero 0.")
    return Equivalent({"lr": lr * factor, "beta": beta}, "m = beta m + (1 - beta) g")


def _qhm(point: Point, lr: float) -> Equivalent:
    if point.pole == 0:
        if point.zero == 0:
            settings = {"lr": lr * float(point.gain), "beta": 0.0, "nu": 1.0}
            return Equivalent(settings, "(1 - nu) g + nu m; nu has no effect for beta = 0")
        return Equivalent(None, "The pole is 0, for which QHM has the zero 0.")
    beta, nu, factor = to_qhm(point)
    if not 0 <= nu <= 1:
        return Equivalent(None, f"The zero is outside [0, pole]: nu would be {nu:.4g}, outside [0, 1].")
    return Equivalent({"lr": lr * factor, "beta": beta, "nu": nu}, "(1 - nu) g + nu m, with m = beta m + (1 - beta) g")


def _autosgm(point: Point, lr: float) -> Equivalent:
    settings = {"lr": lr * float(point.dc_gain), "pole": float(point.pole), "zero": float(point.zero)}
    return Equivalent(settings, "unit DC gain: lr is the effective learning rate")


def _length(point: Point, lr: float) -> Equivalent:
    """Averaging length N = 1/(1 - pole) of the average with zero 0."""
    average = _average(point, lr)
    if average.settings is None:
        return average
    length = float(averaging_length(point.pole))
    return Equivalent({"lr": average.settings["lr"], "steps": length}, "N = 1/(1 - beta) steps")


def _examples(point: Point, lr: float, batch: int) -> Equivalent:
    length = _length(point, lr)
    if length.settings is None:
        return length
    settings = {"lr": length.settings["lr"], "examples": batch * length.settings["steps"]}
    return Equivalent(settings, f"N = batch/(1 - beta) examples, with batches of {batch}")
