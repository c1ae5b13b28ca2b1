"""AutoSGM: learning rates from moments or correlations, applied to a pole-zero filtered gradient.

Source: Somefun, AutoSGM. The arguments are those in AutoSGM's README, and the formulas are derived independently. The
original code deviates from its documentation in several places. The deviations are disabled by default; those that
affect the published results can be enabled by name (`quirks`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from dashpot.constraints import FLAG, NONNEGATIVE, POLE, ZERO, Constraint, OneOf, Scalar, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.options import Options
from dashpot.recipes.recipe import Recipe
from dashpot.schedules import Window
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

QUIRKS = {
    "pole_only_debias": "bias correction by 1 - pole^t for any zero: AutoSGM's default, so this has no effect",
    "first_step_unscaled_zero": "without debias, the first output is not divided by 1 - zero",
    "eta_in_second_moment": "without debias, the input constant also scales the second moment",
    "eps_nudge_small_weights": "at the first step weights with |w| < eps start from w + eps",
    "maximize_negates_decay": "maximize negates the whole step, including the decay",
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
    """Return AutoSGM's recipe. The arguments are those of `AutoSGM`, but the pole has torch's name `momentum`."""
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


_OTHER = ("decay_scale", "maximize", "quirks")
_DEFAULTS = {name: item.default for name, item in inspect.signature(autosgm).parameters.items() if name not in _OTHER}


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
    """AutoSGM: pole-zero filter, second-moment denominator, and a correlation or moment numerator.

        v = filtered gradient / (sqrt(E[(g + eps)^2]) + eps)  (+ unit gain times weight_decay w, if decay is "change")
        w <- w - numerator F(t) v

    F(t) is the schedule. Every setting can be given either in a tuple, as in AutoSGM's README, or as a keyword
    argument.

    Args:
        params: Parameters, parameter groups or (name, parameter) pairs.
        lr_cfg: The tuple (adaptive, lr, numerator).
        beta_cfg: The tuple (beta_n, beta_a, pole, zero, gain, debias).
        rc_cfg: The tuple (shape, sequence, floor, order, half, epochs, steps per epoch, unit, flat top), which
            describes a window and replaces `schedule`; see `dashpot.Window.from_rc_cfg`.
        wd_cfg: The tuple (weight_decay, level). Level 0 means `decay="coupled"`, and level 1 means "change".
        eps_cfg: The tuple (eps,).
        lr: Learning rate and trust region, >= 0. Default: 1e-3.
        adaptive: Whether to divide by the root of the second moment and use the numerator. False means a constant
            learning rate. Default: True.
        numerator: 0 for a constant, 1 for partial correlation, 2 for partial correlation with Huber weights, 3 for a
            moment, 4 for a constant with Huber clipping of the filtered gradient. Default: 0.
        pole, zero: Pole, in [0, 1), and zero, < 1, of the gradient filter. Parameter groups store the pole under
            torch's key `momentum`. Defaults: 0.9 and 0.
        gain: Input constant of the filter, >= 0. 0 means 1 - pole. It has no effect if `debias` is set. Default: 0.
        debias: If True, divide the filtered gradient by 1 - pole^t, as the original does. For zero != 0 this overshoots
            by a factor of up to 1/(1 - pole^2) at t = 2. "exact" does not overshoot. If False, apply the plain linear
            filter. Default: True.
        beta_n, beta_a: Poles of the moving averages in the numerator and the denominator, both in [0, 1). Defaults:
            0.9999 and 0.999.
        weight_decay: Coefficient of the weight decay, >= 0. Default: 0.
        decay: "coupled" adds weight_decay w to the gradient. "change" adds weight_decay w (1 - pole)/(1 - zero) to the
            filtered and divided gradient: for pole 0.9 and zero 0, a weight_decay of 1e-2 corresponds to 1e-3
            in AdamW. Default: "coupled".
        eps: Term added to the denominator and, before squaring, to the gradient, >= 0. Default: 1e-8.
        decay_scale: Scale of the decay for `decay="change"`: "lr", as in AutoSGM, or "schedule" or "constant" for a
            decay that does not depend on lr.
        quirks: Deviations of the original code to reproduce, as keys of `AutoSGM.QUIRKS`.
        options: Options common to all optimizers, see `dashpot.Options`.

    Raises:
        ArgumentError: If a value is outside its range, a tuple has the wrong length, or a setting is given twice.

    Source:
        Somefun, AutoSGM.

    Example:
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
        quirks: Sequence[str] = (),
        **options: Unpack[Options],
    ) -> None:
        keywords = {"lr": lr, "adaptive": adaptive, "numerator": numerator, "beta_n": beta_n, "beta_a": beta_a}
        keywords |= {"pole": pole, "zero": zero, "gain": gain, "debias": debias}
        keywords |= {"weight_decay": weight_decay, "decay": decay, "eps": eps}
        tuples = {"lr_cfg": lr_cfg, "beta_cfg": beta_cfg, "wd_cfg": wd_cfg, "eps_cfg": eps_cfg}
        given = {name: value for name, value in keywords.items() if value is not None}
        given |= _from_tuples(given, tuples)
        if "pole" in given:
            given["momentum"] = given.pop("pole")
        _check_quirks(quirks)
        if rc_cfg is not None:
            if options.get("schedule") is not None:
                raise ArgumentError("AutoSGM: rc_cfg must be None if schedule is given, got both.")
            window_quirks = tuple(quirk for quirk in quirks if quirk in _WINDOW_QUIRKS)
            options["schedule"] = Window.from_rc_cfg(rc_cfg, quirks=window_quirks)
        super().__init__(params, {**_DEFAULTS, **given, "decay_scale": decay_scale, "quirks": tuple(quirks)}, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group. Its settings may be given in tuples, as in AutoSGM's README, except for rc_cfg.

        Args:
            param_group: A dict with the key `params` and any settings.

        Raises:
            ArgumentError: If a setting is out of range, unknown or given twice. The optimizer is then unchanged.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        if "rc_cfg" in param_group:
            raise ArgumentError("AutoSGM: rc_cfg must be given to the optimizer, got it in a parameter group.")
        keywords = {name: value for name, value in param_group.items() if name not in _TUPLES}
        tuples = {name: param_group.get(name) for name in _TUPLES}
        super().add_param_group(keywords | _from_tuples(keywords, tuples))

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


def _from_tuples(keywords: Mapping[str, Any], tuples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings given in README tuples. Raise `ArgumentError` if a setting is also given as a keyword."""
    settings: dict[str, Any] = {}
    for name, value in tuples.items():
        if value is None:
            continue
        entries = parse_tuple(name, value)
        for repeated in keywords.keys() & entries.keys():
            raise ArgumentError(f"AutoSGM: {repeated} must be given once, got it in {name} and as a keyword.")
        settings |= entries
    return settings


def parse_tuple(name: str, value: Any) -> dict[str, Any]:
    """Return the settings in a README tuple by name, after checking each entry."""
    entries = _TUPLES[name]
    if not isinstance(value, (tuple, list)) or len(value) != len(entries):
        expected = ", ".join(entry for entry, _ in entries)
        raise ArgumentError(f"AutoSGM: {name} must be a tuple ({expected}), got {shown(value)}.")
    settings: dict[str, Any] = {}
    for (entry, allowed), item in zip(entries, value, strict=True):
        check("AutoSGM", f"{name}: {entry}", item, allowed)
        settings[entry] = item
    if "decay" in settings:
        settings["decay"] = _DECAY_LEVELS[settings["decay"]]
    return settings
