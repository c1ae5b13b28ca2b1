"""Every method under test, in many settings: the one table over which each contract of tests/contracts runs.

A subject says how to build its optimizer and what may be asked of it. A new row puts a method under every contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import dashpot as dp
from dashpot.stages import Negate, NudgeSmallWeights


@dataclass(frozen=True)
class SignFlips(dp.Stage):
    """A user's own stage: the direction's sign, smaller where it has just turned; a slot of each shape."""

    damping: float = 0.5
    slots = (dp.elementwise("last"), dp.per_tensor("turned", "turned_share"))

    def apply(self, x, s, c, ctx):
        sign = x.v.sign()
        turned = (sign * s.last < 0).to(sign.dtype)
        return x._replace(v=sign * (1 - c.damping * turned)), s._replace(last=sign, turned=ctx.mean(turned))


def known_products(weights, probes):
    """Products with a diagonal Hessian, 1.5 where a weight is positive and 1 elsewhere (exact in every precision): the
    contracts feed recorded gradients, which have no loss behind them. Real and imaginary parts apart."""

    def product(w, v):
        if w.is_complex():
            return torch.view_as_complex(product(torch.view_as_real(w.detach()), torch.view_as_real(v)))
        return torch.where(w.detach() > 0, 1.5, 1.0).to(v.dtype) * v

    return [product(w, v) for w, v in zip(weights, probes, strict=True)]


@dataclass(frozen=True)
class Subject:
    """One method in one setting, and what it can be held to."""

    name: str
    cls: type[dp.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments beside lr."""
    lr: float = 0.02
    """A learning rate with which it goes downhill on the problems of test_contract_descent."""
    keys: tuple[str, ...] = ()
    """The documented keys of its state, beside `step`."""
    knob: str | None = None
    """Where torch's schedulers find the momentum: "momentum", "betas", or nowhere."""
    recipe: dp.Recipe | None = None
    """For `SGM.from_recipe`, instead of options."""
    counterpart: type[torch.optim.Optimizer] | None = None
    """The class of torch.optim that takes the same options and gives the same numbers."""
    lr_moves_all: bool = True
    """A learning rate of zero means no movement (not so for a decay that is independent of it)."""
    steep: bool = False
    """Its step grows with the gradient, so that Rosenbrock's walls need a smaller learning rate."""
    flips_decay: bool = False
    """`maximize` turns the decay too (an original's quirk)."""

    def product_at(self, step: int) -> bool:
        """True where it takes a Hessian-vector product at `step` = 0, 1, ... of an uninterrupted run."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        assert isinstance(optimizer, dp.SecondOrder)
        last = None
        for done in range(step + 1):
            if due := optimizer.probing.due(done, last):
                last = done
        return due

    @property
    def probing(self) -> Mapping[str, Any]:
        """When and how it takes products, complete; empty for a method that takes none."""
        optimizer = self.make([torch.zeros(1, requires_grad=True)])
        if not optimizer.recipe.observes():
            return {}
        assert isinstance(optimizer, dp.SecondOrder)
        return optimizer.probing._asdict()

    @property
    def captures(self) -> bool:
        """A graph can record its step: it takes no products now and then."""
        return self not in SECOND_ORDER

    @property
    def spatial(self) -> bool:
        """It averages over the windows of kernels, and so depends on a parameter's shape."""
        return self.cls is dp.AdaHessian and self.options.get("spatial_averaging", True)

    def __str__(self) -> str:
        return self.name

    def make(self, params: Any, lr: Any = None, **changes: Any) -> dp.Optimizer:
        """The optimizer over `params`."""
        lr = self.lr if lr is None else lr
        if self.recipe is None:
            return self.cls(params, lr=lr, **{**self.options, **changes})
        recipe = self.recipe.with_settings(lr=lr, schedule=changes.pop("schedule", dict(self.recipe.schedule)))
        return dp.SGM.from_recipe(params, recipe, **changes)

    def make_torch(self, params: Any, lr: Any = None, **changes: Any) -> torch.optim.Optimizer:
        """torch's own optimizer of the same method."""
        assert self.counterpart is not None
        return self.counterpart(params, lr=self.lr if lr is None else lr, **{**self.options, **changes})


def _torch(name: str, cls: type[dp.Optimizer], keys: str = "", knob: str = "betas", **options: Any) -> Subject:
    known: dict[str, Any] = {"counterpart": getattr(torch.optim, cls.__name__), "steep": cls is dp.SGD}
    return Subject(name, cls, options, keys=tuple(keys.split()), knob=knob, **known)


def _ours(name: str, cls: type[dp.Optimizer], keys: str, knob: str | None = "momentum", **rest: Any) -> Subject:
    known = {key: rest.pop(key) for key in ("lr", "lr_moves_all", "steep", "flips_decay") if key in rest}
    return Subject(name, cls, rest, keys=tuple(keys.split()), knob=knob, **known)


def _recipe(name: str, recipe: dp.Recipe, keys: str, knob: str | None = "momentum", **known: Any) -> Subject:
    return Subject(name, dp.SGM, keys=tuple(keys.split()), knob=knob, recipe=recipe, **known)


MOMENTS = "exp_avg exp_avg_sq"
TORCH_METHODS = (
    _torch("sgd", dp.SGD, knob="momentum"),
    _torch("sgd-decay", dp.SGD, knob="momentum", weight_decay=0.1),
    _torch("sgd-momentum", dp.SGD, "momentum_buffer", "momentum", momentum=0.9, weight_decay=0.01),
    _torch("sgd-dampening", dp.SGD, "momentum_buffer", "momentum", momentum=0.8, dampening=0.3),
    _torch("sgd-nesterov", dp.SGD, "momentum_buffer", "momentum", momentum=0.9, nesterov=True, weight_decay=0.01),
    _torch("rmsprop", dp.RMSprop, "square_avg", "momentum"),
    _torch("rmsprop-momentum", dp.RMSprop, "square_avg momentum_buffer", "momentum", momentum=0.5, weight_decay=0.01),
    _torch("rmsprop-centered", dp.RMSprop, "square_avg grad_avg", "momentum", centered=True, alpha=0.9, eps=0.1),
    _torch("adam", dp.Adam, MOMENTS),
    _torch("adam-decay", dp.Adam, MOMENTS, betas=(0.8, 0.95), weight_decay=0.1),
    _torch("adam-decoupled", dp.Adam, MOMENTS, weight_decay=0.1, decoupled_weight_decay=True),
    _torch("adamw", dp.AdamW, MOMENTS),
    _torch("adamw-decay", dp.AdamW, MOMENTS, betas=(0.7, 0.9), eps=1e-3, weight_decay=0.5),
    _torch("adam-amsgrad", dp.Adam, f"{MOMENTS} max_exp_avg_sq", betas=(0.8, 0.9), weight_decay=0.1, amsgrad=True),
    _torch("adamw-amsgrad", dp.AdamW, f"{MOMENTS} max_exp_avg_sq", betas=(0.9, 0.5), amsgrad=True),
    _torch("nadam", dp.NAdam, "exp_avg exp_avg_sq mu_product"),
    _torch("nadam-decay", dp.NAdam, "exp_avg exp_avg_sq mu_product", weight_decay=0.1, momentum_decay=0.01),
    _torch(
        "nadam-decoupled",
        dp.NAdam,
        "exp_avg exp_avg_sq mu_product",
        weight_decay=0.1,
        decoupled_weight_decay=True,
    ),
)

DESIGN_METHODS = (
    _ours("adamw-decay-by-schedule", dp.AdamW, MOMENTS, "betas", decay_scale="schedule", lr_moves_all=False),
    _ours(
        "adamw-decay-constant",
        dp.AdamW,
        MOMENTS,
        "betas",
        decay_scale="constant",
        weight_decay=1e-3,
        lr_moves_all=False,
    ),
    _ours("heavy-ball", dp.HeavyBall, "momentum_buffer", steep=True),
    _ours("heavy-ball-decay", dp.HeavyBall, "momentum_buffer", pole=0.5, weight_decay=0.05, steep=True),
    _ours("nag", dp.NAG, "momentum_buffer", steep=True),
    _ours("nag-decay", dp.NAG, "momentum_buffer", pole=0.7, weight_decay=0.05, steep=True),
    _ours("qhm", dp.QHM, "exp_avg", steep=True),
    _ours("qhm-debiased", dp.QHM, "exp_avg", pole=0.9, nu=0.5, debias=True, weight_decay=0.05, lr=0.1, steep=True),
    _ours("qhadam", dp.QHAdam, MOMENTS, "betas"),
    _ours("qhadam-both", dp.QHAdam, MOMENTS, "betas", betas=(0.9, 0.99), nus=(0.7, 0.8), weight_decay=0.1),
    _ours("centered-adam", dp.CenteredAdam, f"{MOMENTS} grad_avg", "betas", eps=0.1),
    _ours("centered-adam-direction", dp.CenteredAdam, MOMENTS, "betas", eps=0.1, mean="direction"),
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
# Short averages, so that a few steps show the numerators at work; the prefilter of 4 cuts nothing below 0.94.
BETA_N = {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.99}


def _autosgm(name: str, numerator: int = 0, **options: Any) -> Subject:
    keys = "momentum_buffer" + (" exp_avg_sq" if options.get("adaptive", True) else "")
    active = numerator if options.get("adaptive", True) or numerator == 4 else 0
    return _ours(f"autosgm-{name}", dp.AutoSGM, keys + NUMERATOR_KEYS[active], numerator=numerator, **options)


AUTOSGM = (
    *(_autosgm(f"{n}-debiased", n, beta_n=BETA_N[n]) for n in range(5)),
    *(_autosgm(f"{n}-zero", n, beta_n=BETA_N[n], zero=0.5528, decay="change", weight_decay=0.1) for n in range(5)),
    *(_autosgm(f"{n}-plain", n, beta_n=BETA_N[n], debias=False, zero=0.3, weight_decay=0.05) for n in range(5)),
    _autosgm("exact", debias="exact", zero=0.5528),
    _autosgm("gain", debias=False, gain=1.0, lr=0.005),
    _autosgm("constant-rate", adaptive=False, decay="change", weight_decay=0.1, steep=True),
    _autosgm("constant-rate-clipped", 4, adaptive=False, beta_n=0.99, zero=0.5, steep=True),
    _autosgm("decay-by-schedule", decay="change", weight_decay=0.1, decay_scale="schedule", lr_moves_all=False),
    _autosgm("decay-constant", decay="change", weight_decay=0.01, decay_scale="constant", lr_moves_all=False),
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
    ),
    _ours("sgm-no-stage", dp.SGM, "", None, steep=True),
    _recipe(
        "running-adam",
        dp.Recipe(dp.Filter(0.9, normalise="running"), dp.SecondMoment(0.99, average="running")),
        MOMENTS.replace("exp_avg ", "momentum_buffer "),
    ),
    _recipe(
        "running-centered",
        dp.Recipe(dp.Filter(0.9), dp.CenteredMoment(0.9, 0.1, eps_mode="inside", average="running", mean="average")),
        "momentum_buffer exp_avg_sq grad_avg",
    ),
    _recipe(
        "over-the-variance",
        dp.Recipe(dp.Filter(0.5), dp.CenteredMoment(0.9, 1.0, average="first", mean="direction", power="variance")),
        "momentum_buffer exp_avg_sq",
    ),
    _recipe(
        "eps-inside",
        dp.Recipe(dp.Filter(0.9), dp.SecondMoment(0.99, 1e-5, eps_mode="inside"), dp.DecoupledDecay(0.1)),
        "momentum_buffer exp_avg_sq",
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
    ),
    _recipe(
        "adaptive-clip",
        dp.Recipe(dp.AdaptiveClip(0.05), dp.Filter(0.9), dp.SecondMoment(0.99), dp.DecoupledDecay(0.1)),
        "momentum_buffer exp_avg_sq",
    ),
    _recipe("own-stage", dp.Recipe(dp.Filter(0.5), SignFlips(0.25)), "momentum_buffer last turned_share"),
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
    ),
)

NEWTON_KEYS = "exp_avg hess_sq products hess_weight"


def _second_order(name: str, cls: type[dp.Optimizer], keys: str, knob: str | None = "betas", **options: Any) -> Subject:
    return _ours(name, cls, keys, knob, probe=known_products, **{"lr": 0.05, **options})


SECOND_ORDER = (
    _second_order("esgd", dp.ESGD, NEWTON_KEYS, lr_warmup=0.5, steep=True),
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
    _second_order("esgd-2", dp.ESGD, "exp_avg hess_sq products warmup", lr_warmup=0.5, version=2, steep=True),
    _second_order("adahessian", dp.AdaHessian, NEWTON_KEYS, steep=True),
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
    _second_order("sophia", dp.Sophia, "exp_avg hess products", update_d_every=4, distribution="rademacher", lr=0.01),
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

SUBJECTS: tuple[Subject, ...] = (*TORCH_METHODS, *DESIGN_METHODS, *AUTOSGM, *GENERAL_POINTS, *SECOND_ORDER)

KINDS = frozenset(
    {
        "sgd-dampening",
        "sgd-nesterov",
        "rmsprop-centered",
        "adam",
        "adamw-amsgrad",
        "adamw-decay",
        "adamw-decay-by-schedule",
        "adamw-decay-constant",
        "nadam-decay",
        "heavy-ball-decay",
        "nag-decay",
        "qhm-debiased",
        "qhadam-both",
        "centered-adam-direction",
        "autosgm-1-zero",
        "autosgm-2-debiased",
        "autosgm-3-debiased",
        "autosgm-decay-by-schedule",
        "autosgm-decay-constant",
        "autosgm-quirks",
        "sgm-all-stages",
        "running-adam",
        "running-centered",
        "over-the-variance",
        "eps-inside",
        "negated-twice",
        "adaptive-clip",
        "own-stage",
        "scheduled",
        "esgd",
        "esgd-2",
        "adahessian",
        "sophia",
    }
)
"""Subjects among which there is every method, every stage and every choice of a stage: test_contract_registry.py."""


def each(such_that: Callable[[Subject], Any] = lambda subject: True) -> Any:
    """Parametrise a test over the subjects that fulfil a condition."""
    chosen = [subject for subject in SUBJECTS if such_that(subject)]
    assert chosen, "a contract over no subject proves nothing"
    return pytest.mark.parametrize("subject", chosen, ids=str)


def each_kind(such_that: Callable[[Subject], Any] = lambda subject: True) -> Any:
    """`each` for a test that takes long, as one that compiles: subjects outside `KINDS` are slow tests."""
    return pytest.mark.parametrize("subject", marked(filter(such_that, SUBJECTS)), ids=str)


def marked(subjects: Iterable[Subject]) -> list[Any]:
    """The subjects as parameters, those outside `KINDS` marked slow."""
    slow = pytest.mark.slow
    found = [pytest.param(subject, marks=() if subject.name in KINDS else slow) for subject in subjects]
    assert not all(parameter.marks for parameter in found), "a contract over no subject proves nothing"
    return found
