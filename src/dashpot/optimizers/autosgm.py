"""AutoSGM: moment and correlation learning rates over the pole-zero filter, in its own tuples or in words.

Source: Somefun, AutoSGM (README for the arguments; the formulas are re-derived). The original's departures from its own
documentation are not copied; those that its published numbers contain can be switched on by name (`quirks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashpot.constraints import FLAG, NONNEGATIVE, POLE, ZERO, Constraint, OneOf, Scalar, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options, Unpack
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Schedule, Window
from dashpot.stages import (
    ChangeDecay,
    CoupledDecay,
    Filter,
    HuberClip,
    HuberParcor,
    MomentRate,
    Negate,
    NudgeSmallWeights,
    Parcor,
    SecondMoment,
    Stage,
)
from dashpot.stages.filter import unit_gain
from dashpot.utils.scalars import is_number

__all__ = ["AutoSGM", "autosgm"]

QUIRKS = {
    "pole_only_debias": "bias correction 1 - pole^t whatever the zero: AutoSGM's default, so this one changes nothing",
    "first_step_unscaled_zero": "without debias, the first output is not divided by 1 - zero",
    "eta_in_second_moment": "without debias, the input constant also scales the second moment",
    "eps_nudge_small_weights": "at the first step weights with |w| < eps start from w + eps",
    "maximize_negates_decay": "maximize turns the whole step round, decay included",
    "late_logistic_unnormalised": "window 6 keeps the end values of window 5",
    "epoch_counts_tau_steps": "the epoch of epoch-unit windows advances every tau steps",
    "epoch_window_second_frame": "the last epoch of later frames of epoch-unit windows falls below zero",
}
_WINDOW_QUIRKS = ("late_logistic_unnormalised", "epoch_counts_tau_steps", "epoch_window_second_frame")

_NUMERATORS = OneOf((0, 1, 2, 3, 4))
_TUPLES: Mapping[str, tuple[tuple[str, Constraint], ...]] = {
    "lr_cfg": (("adaptive", FLAG), ("lr", NONNEGATIVE), ("numerator", _NUMERATORS)),
    "beta_cfg": (
        ("beta_n", POLE),
        ("beta_a", POLE),
        ("pole", POLE),
        ("zero", ZERO),
        ("gain", NONNEGATIVE),
        ("debias", FLAG),
    ),
    "wd_cfg": (("weight_decay", NONNEGATIVE), ("decay", OneOf((0, 1)))),
    "eps_cfg": (("eps", NONNEGATIVE),),
}
_DEFAULTS: Mapping[str, Any] = {
    "lr": 1e-3,
    "adaptive": True,
    "numerator": 0,
    "pole": 0.9,
    "zero": 0.0,
    "gain": 0.0,
    "debias": True,
    "beta_n": 0.9999,
    "beta_a": 0.999,
    "weight_decay": 0.0,
    "decay": "coupled",
    "eps": 1e-8,
}
_DECAY_LEVELS = {0: "coupled", 1: "change"}


def autosgm(
    lr: Scalar = 1e-3,
    adaptive: bool = True,
    numerator: int = 0,
    momentum: Scalar = 0.9,
    zero: Scalar = 0.0,
    gain: Scalar = 0.0,
    debias: bool | str = True,
    beta_n: Scalar = 0.9999,
    beta_a: Scalar = 0.999,
    weight_decay: Scalar = 0.0,
    decay: str = "coupled",
    decay_scale: str = "lr",
    eps: Scalar = 1e-8,
    maximize: bool = False,
    quirks: Sequence[str] = (),
) -> Recipe:
    """AutoSGM as stages; the arguments are those of `AutoSGM` (the pole under torch's name, momentum)."""
    stages: list[Stage] = [
        *([NudgeSmallWeights(eps)] if "eps_nudge_small_weights" in quirks else []),
        *([CoupledDecay(weight_decay)] if decay == "coupled" else []),
        _filter(momentum, zero, gain, debias, quirks),
        *([_denominator(gain, debias, beta_a, eps, quirks)] if adaptive else []),
        *([ChangeDecay(weight_decay, unit_gain(momentum, zero), decay_scale)] if decay == "change" else []),
        *([HuberClip(beta_n, eps=eps)] if numerator == 4 else []),
        *(_numerator(numerator, beta_n, beta_a) if adaptive else []),
        *([Negate()] if maximize and "maximize_negates_decay" in quirks else []),
    ]
    return Recipe(*stages, lr=lr)


def _filter(pole: Scalar, zero: Scalar, gain: Scalar, debias: bool | str, quirks: Sequence[str]) -> Filter:
    if debias:
        return Filter(pole, zero, normalise="exact" if debias == "exact" else "autosgm")
    total = None if _unset(gain) else gain / (1 - zero)
    start = "unscaled" if "first_step_unscaled_zero" in quirks else "zero"
    return Filter(pole, zero, total, normalise="none", start=start)


def _denominator(gain: Scalar, debias: bool | str, beta_a: Scalar, eps: Scalar, quirks: Sequence[str]) -> SecondMoment:
    scaled = "eta_in_second_moment" in quirks and not debias and not _unset(gain)
    return SecondMoment(
        beta_a,
        eps,
        eps_mode="gradient",
        average="debiased" if debias else "plain",
        scale=gain / (1 - beta_a) if scaled else 1.0,
    )


def _numerator(numerator: int, beta_n: Scalar, beta_a: Scalar) -> list[Stage]:
    stages: dict[int, Stage] = {1: Parcor(beta_n), 2: HuberParcor(beta_n, beta_a), 3: MomentRate(beta_n)}
    return [stages[numerator]] if numerator in stages else []


def _unset(gain: Scalar) -> bool:
    return is_number(gain) and bool(gain == 0)


class AutoSGM(Optimizer):
    """AutoSGM: pole-zero filter, moment denominator and a correlation or moment numerator.

        v = filtered gradient / (sqrt(E[(g + eps)^2]) + eps)  (+ unit gain times weight_decay w, if decay is "change")
        w <- w - numerator F(t) v

    The README's tuples and the keywords say the same; a setting is given one way or the other.

    Args:
        params: Parameters, groups or (name, parameter) pairs.
        lr_cfg: (adaptive, lr, numerator): `adaptive` False is a constant rate; lr >= 0 is the trust region; `numerator`
            is 0 constant, 1 partial correlation, 2 the same Huberised, 3 moment, 4 constant with a Huberised prefilter.
        beta_cfg: (beta_n, beta_a, pole, zero, gain, debias): poles of the numerator's and the denominator's averages;
            pole in [0, 1) and zero < 1 of the filter; `gain` its input constant (0: 1 - pole), without effect while
            `debias` is on. `debias` divides by 1 - pole^t, which for zero != 0 overshoots by up to 1/(1 - pole^2) at t
            = 2 (as the original); "exact" does not.
        rc_cfg: (shape, sequence, floor, order, half, epochs, steps per epoch, unit, flat top): the window; see
            `dashpot.Window.from_rc_cfg`. In words: `schedule`.
        wd_cfg: (weight_decay, level): level 0 is `decay="coupled"`, 1 is "change". At change level the decay acts with
            the factor (1 - pole)/(1 - zero), a tenth for pole 0.9 and zero 0: 1e-2 here is 1e-3 for AdamW.
        eps_cfg: (eps,).
        maximize: Ascend: the gradient is negated, the decay is not.
        lr, adaptive, numerator, pole, zero, gain, debias, beta_n, beta_a, weight_decay, decay, eps: The same settings
            as keywords.
        decay_scale: At change level: "lr" (AutoSGM), or "schedule" or "constant" for a decay independent of lr.
        schedule, options, differentiable: See `dashpot.Optimizer`.
        quirks: Names of the original's habits to reproduce (`AutoSGM.QUIRKS`).

    Raises `ArgumentError` for a value out of range, a tuple of the wrong length, or a setting given twice.

    >>> import torch, dashpot as dp
    >>> w = [torch.zeros(2, requires_grad=True)]
    >>> a = dp.AutoSGM(w, lr_cfg=(True, 1e-2, 3), beta_cfg=(0.9999, 0.999, 0.9, 0.5528, 0, True), wd_cfg=(0.0, 1))
    >>> b = dp.AutoSGM(w, lr=1e-2, numerator=3, zero=0.5528, decay="change")
    >>> dp.diff(a, b)
    no difference
    """

    preset = staticmethod(autosgm)
    QUIRKS = QUIRKS
    _GROUP_WORDS = tuple(_TUPLES)

    def __init__(
        self,
        params: Any,
        *,
        lr_cfg: Sequence[Any] | None = None,
        beta_cfg: Sequence[Any] | None = None,
        rc_cfg: Sequence[Any] | None = None,
        wd_cfg: Sequence[Any] | None = None,
        eps_cfg: Sequence[Any] | None = None,
        maximize: bool = False,
        lr: Scalar | None = None,
        adaptive: bool | None = None,
        numerator: int | None = None,
        pole: Scalar | None = None,
        zero: Scalar | None = None,
        gain: Scalar | None = None,
        debias: bool | str | None = None,
        beta_n: Scalar | None = None,
        beta_a: Scalar | None = None,
        weight_decay: Scalar | None = None,
        decay: str | None = None,
        eps: Scalar | None = None,
        decay_scale: str = "lr",
        schedule: Schedule | Mapping[str, Schedule] | None = None,
        differentiable: bool = False,
        quirks: Sequence[str] = (),
        **options: Unpack[Options],
    ) -> None:
        words = {
            "lr": lr,
            "adaptive": adaptive,
            "numerator": numerator,
            "pole": pole,
            "zero": zero,
            "gain": gain,
            "debias": debias,
            "beta_n": beta_n,
            "beta_a": beta_a,
            "weight_decay": weight_decay,
            "decay": decay,
            "eps": eps,
        }
        tuples = {"lr_cfg": lr_cfg, "beta_cfg": beta_cfg, "wd_cfg": wd_cfg, "eps_cfg": eps_cfg}
        given = {name: value for name, value in words.items() if value is not None}
        settings = {**_DEFAULTS, **_said(given, tuples), **given}
        settings["momentum"] = settings.pop("pole")
        _check_quirks(quirks)
        if rc_cfg is not None and schedule is not None:
            raise ArgumentError("AutoSGM: give the window as rc_cfg or as schedule, not as both.")
        if rc_cfg is not None:
            schedule = Window.from_rc_cfg(rc_cfg, quirks=tuple(q for q in quirks if q in _WINDOW_QUIRKS))
        settings |= {"decay_scale": decay_scale, "maximize": maximize, "differentiable": differentiable}
        super().__init__(params, {**settings, "quirks": tuple(quirks)}, schedule, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its settings may be written as the README's tuples too (rc_cfg belongs to the optimizer)."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        if "rc_cfg" in param_group:
            raise ArgumentError("AutoSGM: rc_cfg must be given to the optimizer, a parameter group has no window.")
        words = {name: value for name, value in param_group.items() if name not in _TUPLES}
        super().add_param_group(words | _said(words, {name: param_group.get(name) for name in _TUPLES}))

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        super()._check_settings(settings)
        if "quirks" in settings:
            _check_quirks(settings["quirks"])
        if settings.get("gain", 0.0) is None:
            check("AutoSGM", "gain", None, NONNEGATIVE)

    def _maximizes(self, group: Mapping[str, Any]) -> bool:
        return super()._maximizes(group) and "maximize_negates_decay" not in group["quirks"]


def _check_quirks(quirks: Any) -> None:
    if isinstance(quirks, str) or not isinstance(quirks, Sequence):
        raise ArgumentError(f"AutoSGM: quirks must be a sequence of names, got {shown(quirks)}.")
    for name in quirks:
        if name not in QUIRKS:
            raise unknown("quirk", name, QUIRKS)


def _said(words: Mapping[str, Any], tuples: Mapping[str, Any]) -> dict[str, Any]:
    """What the tuples say, none of it said in words as well."""
    settings: dict[str, Any] = {}
    for name, value in tuples.items():
        if value is None:
            continue
        said = _unpacked(name, value)
        for both in words.keys() & said.keys():
            raise ArgumentError(f"AutoSGM: {both} is given twice, in {name} and as a keyword.")
        settings |= said
    return settings


def _unpacked(name: str, value: Any) -> dict[str, Any]:
    """A README tuple as settings by name, each entry checked."""
    entries = _TUPLES[name]
    wording = ", ".join(entry for entry, _ in entries)
    if not isinstance(value, (tuple, list)) or len(value) != len(entries):
        raise ArgumentError(f"AutoSGM: {name} must be a tuple ({wording}), got {shown(value)}.")
    for (entry, allowed), item in zip(entries, value, strict=True):
        check("AutoSGM", f"{name}: {entry}", item, allowed)
    settings = {entry: item for (entry, _), item in zip(entries, value, strict=True)}
    if "decay" in settings:
        settings["decay"] = _DECAY_LEVELS[settings["decay"]]
    return settings
