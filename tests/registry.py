"""The table of test subjects: all methods in several settings, on which all contracts in tests/contracts are run.

A method of `dashpot.optimizers.registry` that has no row here is tested with its default settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from subjects import SignFlips, Subject, default_subject, known_products, subject

import dashpot as dp
from dashpot.optimizers.registry import METHODS
from dashpot.stages import Negate, NudgeSmallWeights


def _torch(name: str, cls: type[dp.Optimizer], keys: str = "", momentum_key: str = "betas", **rest: Any) -> Subject:
    facts = {"counterpart": getattr(torch.optim, cls.__name__), "steep": cls is dp.SGD}
    return subject(name, cls, keys, momentum_key, **facts, **rest)


def _ours(name: str, cls: type[dp.Optimizer], keys: str, momentum_key: str | None = "momentum", **rest: Any) -> Subject:
    return subject(name, cls, keys, momentum_key, **rest)


def _recipe(name: str, recipe: dp.Recipe, keys: str, momentum_key: str | None = "momentum", **facts: Any) -> Subject:
    return subject(name, dp.SGM, keys, momentum_key, recipe=recipe, **facts)


MOMENTS = "exp_avg exp_avg_sq"
TORCH_METHODS = (
    _torch("sgd", dp.SGD, momentum_key="momentum"),
    _torch("sgd-decay", dp.SGD, momentum_key="momentum", weight_decay=0.1),
    _torch("sgd-momentum", dp.SGD, "momentum_buffer", "momentum", momentum=0.9, weight_decay=0.01),
    _torch("sgd-dampening", dp.SGD, "momentum_buffer", "momentum", momentum=0.8, dampening=0.3, kind=True),
    _torch(
        "sgd-nesterov", dp.SGD, "momentum_buffer", "momentum", momentum=0.9, nesterov=True, weight_decay=0.01, kind=True
    ),
    _torch("rmsprop", dp.RMSprop, "square_avg", "momentum"),
    _torch("rmsprop-momentum", dp.RMSprop, "square_avg momentum_buffer", "momentum", momentum=0.5, weight_decay=0.01),
    _torch(
        "rmsprop-centered", dp.RMSprop, "square_avg grad_avg", "momentum", centered=True, alpha=0.9, eps=0.1, kind=True
    ),
    _torch("adagrad", dp.Adagrad, "sum", None, lr=0.2),
    _torch(
        "adagrad-decay",
        dp.Adagrad,
        "sum",
        None,
        lr=0.2,
        lr_decay=0.05,
        weight_decay=0.1,
        initial_accumulator_value=0.25,
        eps=1e-3,
        kind=True,
    ),
    _torch("adam", dp.Adam, MOMENTS, kind=True),
    _torch("adam-decay", dp.Adam, MOMENTS, betas=(0.8, 0.95), weight_decay=0.1),
    _torch("adam-decoupled", dp.Adam, MOMENTS, weight_decay=0.1, decoupled_weight_decay=True),
    _torch("adamw", dp.AdamW, MOMENTS),
    _torch("adamw-decay", dp.AdamW, MOMENTS, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.5, kind=True),
    _torch("adam-amsgrad", dp.Adam, f"{MOMENTS} max_exp_avg_sq", betas=(0.8, 0.9), weight_decay=0.1, amsgrad=True),
    _torch("adamw-amsgrad", dp.AdamW, f"{MOMENTS} max_exp_avg_sq", betas=(0.9, 0.5), amsgrad=True, kind=True),
    _torch("nadam", dp.NAdam, "exp_avg exp_avg_sq mu_product"),
    _torch("nadam-decay", dp.NAdam, "exp_avg exp_avg_sq mu_product", weight_decay=0.1, momentum_decay=0.01, kind=True),
    _torch(
        "nadam-decoupled",
        dp.NAdam,
        "exp_avg exp_avg_sq mu_product",
        weight_decay=0.1,
        decoupled_weight_decay=True,
    ),
)

DESIGN_METHODS = (
    _ours("adamw-decay-by-schedule", dp.AdamW, MOMENTS, "betas", decay_scale="schedule", lr_moves_all=False, kind=True),
    _ours(
        "adamw-decay-constant",
        dp.AdamW,
        MOMENTS,
        "betas",
        decay_scale="constant",
        weight_decay=1e-3,
        lr_moves_all=False,
        kind=True,
    ),
    _ours("heavy-ball", dp.HeavyBall, "momentum_buffer", steep=True),
    _ours("heavy-ball-decay", dp.HeavyBall, "momentum_buffer", pole=0.5, weight_decay=0.05, steep=True, kind=True),
    _ours("nag", dp.NAG, "momentum_buffer", steep=True),
    _ours("nag-decay", dp.NAG, "momentum_buffer", pole=0.7, weight_decay=0.05, steep=True, kind=True),
    _ours("qhm", dp.QHM, "exp_avg", steep=True),
    _ours(
        "qhm-debiased",
        dp.QHM,
        "exp_avg",
        pole=0.9,
        nu=0.5,
        debias=True,
        weight_decay=0.05,
        lr=0.1,
        steep=True,
        kind=True,
    ),
    _ours("qhadam", dp.QHAdam, MOMENTS, "betas"),
    _ours("qhadam-both", dp.QHAdam, MOMENTS, "betas", betas=(0.9, 0.99), nus=(0.7, 0.8), weight_decay=0.1, kind=True),
    _ours("centered-adam", dp.CenteredAdam, f"{MOMENTS} grad_avg", "betas", eps=0.1),
    _ours("centered-adam-direction", dp.CenteredAdam, MOMENTS, "betas", eps=0.1, mean="direction", kind=True),
    _ours(
        "centered-adam-at-once",
        dp.CenteredAdam,
        MOMENTS,
        "betas",
        eps=1.0,
        mean="direction",
        uncentered_steps=0,
        lr=0.1,
        steep=True,
    ),
)

NUMERATOR_KEYS = {
    0: "",
    1: " weight_power correlation rate",
    2: " weight_power product_size correlation rate",
    3: " rate_moment rate",
    4: " norm_avg deviation_sq",
}
# With short averages, the numerators have an effect within a few steps. Below 0.94, the prefilter of numerator 4 would
# clip nothing.
BETA_N = {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.99}


def _autosgm(name: str, numerator: int = 0, **rest: Any) -> Subject:
    adaptive = rest.get("adaptive", True)
    keys = "momentum_buffer" + (" exp_avg_sq" if adaptive else "")
    keys += NUMERATOR_KEYS[numerator if adaptive or numerator == 4 else 0]
    inert = () if adaptive or numerator == 4 else ("eps",)
    return _ours(f"autosgm-{name}", dp.AutoSGM, keys, numerator=numerator, inert=inert, **rest)


AUTOSGM = (
    *(_autosgm(f"{n}-debiased", n, beta_n=BETA_N[n], kind=n in (2, 3)) for n in range(5)),
    *(
        _autosgm(f"{n}-zero", n, beta_n=BETA_N[n], zero=0.5528, decay="change", weight_decay=0.1, kind=n == 1)
        for n in range(5)
    ),
    *(_autosgm(f"{n}-plain", n, beta_n=BETA_N[n], debias=False, zero=0.3, weight_decay=0.05) for n in range(5)),
    _autosgm("exact", debias="exact", zero=0.5528),
    _autosgm("gain", debias=False, gain=1.0, lr=0.005),
    _autosgm("constant-rate", adaptive=False, decay="change", weight_decay=0.1, steep=True),
    _autosgm("constant-rate-clipped", 4, adaptive=False, beta_n=0.99, zero=0.5, steep=True),
    _autosgm(
        "decay-by-schedule", decay="change", weight_decay=0.1, decay_scale="schedule", lr_moves_all=False, kind=True
    ),
    _autosgm(
        "decay-constant", decay="change", weight_decay=0.01, decay_scale="constant", lr_moves_all=False, kind=True
    ),
    _autosgm(
        "quirks",
        debias=False,
        gain=0.2,
        zero=0.3,
        decay="change",
        weight_decay=0.1,
        quirks=(
            "first_step_unscaled_zero",
            "eta_in_second_moment",
            "eps_nudge_small_weights",
            "maximize_negates_decay",
        ),
        flips_decay=True,
        kind=True,
    ),
)

GENERAL_POINTS = (
    _ours(
        "sgm-all-stages",
        dp.SGM,
        "momentum_buffer exp_avg_sq norm_avg deviation_sq weight_power correlation rate",
        filter=dp.Filter(0.9, zero=-0.5),
        rate=(dp.SecondMoment(0.9, 1e-3, average="first"), dp.Parcor(0.9)),
        decay=(dp.CoupledDecay(0.01), dp.DecoupledDecay(0.02)),
        robust=dp.HuberClip(0.99),
        kind=True,
    ),
    _ours("sgm-no-stage", dp.SGM, "", None, steep=True),
    _recipe(
        "running-adam",
        dp.Recipe(dp.Filter(0.9, normalise="running"), dp.SecondMoment(0.99, average="running")),
        MOMENTS.replace("exp_avg ", "momentum_buffer "),
        kind=True,
    ),
    _recipe(
        "running-centered",
        dp.Recipe(dp.Filter(0.9), dp.CenteredMoment(0.9, 0.1, eps_mode="inside", average="running", mean="average")),
        "momentum_buffer exp_avg_sq grad_avg",
        kind=True,
    ),
    _recipe(
        "over-the-variance",
        dp.Recipe(dp.Filter(0.5), dp.CenteredMoment(0.9, 1.0, average="first", mean="direction", power="variance")),
        "momentum_buffer exp_avg_sq",
        kind=True,
    ),
    _recipe(
        "eps-inside",
        dp.Recipe(dp.Filter(0.9), dp.SecondMoment(0.99, 1e-5, eps_mode="inside"), dp.DecoupledDecay(0.1)),
        "momentum_buffer exp_avg_sq",
        kind=True,
    ),
    _recipe(
        "over-the-maximum",
        dp.Recipe(dp.SecondMoment(0.7, 1e-4, "inside", "first", maximum=True), dp.Filter(0.9, zero=0.2)),
        "exp_avg_sq max_exp_avg_sq momentum_buffer",
    ),
    _recipe(
        "two-filters-user-order",
        dp.Recipe(dp.SecondMoment(0.9), dp.Filter(0.5), dp.Filter(0.8, zero=0.4, slot="second"), dp.MomentRate(0.5)),
        "exp_avg_sq momentum_buffer second rate_moment rate",
    ),
    _recipe(
        "negated-twice",
        dp.Recipe(Negate(), NudgeSmallWeights(1e-3), Negate(), dp.ChangeDecay(0.1, 0.5)),
        "",
        None,
        steep=True,
        kind=True,
    ),
    _recipe(
        "adaptive-clip",
        dp.Recipe(dp.AdaptiveClip(0.05), dp.Filter(0.9), dp.SecondMoment(0.99), dp.DecoupledDecay(0.1)),
        "momentum_buffer exp_avg_sq",
        kind=True,
    ),
    _recipe("own-stage", dp.Recipe(dp.Filter(0.5), SignFlips(0.25)), "momentum_buffer last turned_share", kind=True),
    _recipe(
        "scheduled",
        dp.Recipe(
            dp.Filter(0.8, zero=0.2),
            dp.SecondMoment(0.99),
            dp.DecoupledDecay(0.002, "schedule"),
            schedule={"lr": dp.schedules.Cosine(400, floor=0.2), "zero": dp.schedules.Exponential(0.9)},
        ),
        "momentum_buffer exp_avg_sq",
        lr_moves_all=False,
        kind=True,
    ),
)

NEWTON_KEYS = "exp_avg hess_sq products hess_weight"


def _second_order(name: str, cls: type[dp.Optimizer], keys: str, momentum_key: str = "betas", **rest: Any) -> Subject:
    return subject(name, cls, keys, momentum_key, probe=known_products, **{"lr": 0.05, **rest})


SECOND_ORDER = (
    _second_order("esgd", dp.ESGD, NEWTON_KEYS, lr_warmup=0.5, steep=True, kind=True),
    _second_order(
        "esgd-quasi-hyperbolic",
        dp.ESGD,
        NEWTON_KEYS,
        betas=(0.95, 0.9),
        v=0.7,
        lr_warmup=0.9,
        weight_decay=0.1,
        update_d_every=3,
        d_warmup=2,
        lr=0.1,
        steep=True,
    ),
    _second_order("esgd-0", dp.ESGD, "exp_avg hess_sq products", lr_warmup=0.5, version=0, steep=True, kind=True),
    _second_order(
        "esgd-2", dp.ESGD, "exp_avg hess_sq products warmup", lr_warmup=0.5, version=2, steep=True, kind=True
    ),
    _second_order("adahessian", dp.AdaHessian, NEWTON_KEYS, steep=True, kind=True),
    _second_order(
        "adahessian-root",
        dp.AdaHessian,
        NEWTON_KEYS,
        hessian_power=0.5,
        spatial_averaging=False,
        weight_decay=0.1,
        update_d_every=2,
        steep=True,
    ),
    _second_order(
        "sophia", dp.Sophia, "exp_avg hess products", update_d_every=4, distribution="rademacher", lr=0.01, kind=True
    ),
    _second_order(
        "sgm-curvature",
        dp.SGM,
        "momentum_buffer hess_sq products norm_avg deviation_sq",
        "momentum",
        filter=dp.Filter(0.9, zero=0.3),
        rate=dp.Curvature(0.9, 1e-2, "diagonal", "maximum"),
        decay=dp.CoupledDecay(0.01),
        robust=dp.HuberClip(0.99),
        steep=True,
    ),
)

ROWS = (*TORCH_METHODS, *DESIGN_METHODS, *AUTOSGM, *GENERAL_POINTS, *SECOND_ORDER)
SUBJECTS: tuple[Subject, ...] = (
    *ROWS,
    *(default_subject(name, row) for name, row in METHODS.items() if row.cls not in {item.cls for item in ROWS}),
)
KINDS = frozenset(item.name for item in SUBJECTS if item.kind)
"""Names of subjects that together cover all methods, stages and choices of stages (see test_contract_registry.py)."""
HALF_OF_KINDS = frozenset(sorted(KINDS)[::2])
"""Every second kind, for expensive tests whose slow variants cover all subjects."""


def each(condition: Callable[[Subject], Any] = lambda subject: True) -> Any:
    """Parametrize a test over the subjects that meet a condition. Those not in `KINDS` are slow tests."""
    return pytest.mark.parametrize("subject", marked(filter(condition, SUBJECTS)), ids=str)


def each_second(condition: Callable[[Subject], Any] = lambda subject: True) -> Any:
    """Parametrize as `each`, with the subjects not in `HALF_OF_KINDS` as slow tests."""
    return pytest.mark.parametrize("subject", marked(filter(condition, SUBJECTS), HALF_OF_KINDS), ids=str)


def marked(subjects: Iterable[Subject], fast: frozenset[str] = KINDS) -> list[Any]:
    """Return the subjects as parameters, with those not in `fast` marked slow. At least one must be fast."""
    found = [pytest.param(item, marks=() if item.name in fast else pytest.mark.slow) for item in subjects]
    assert not all(parameter.marks for parameter in found), "no fast subject meets the condition"
    return found
