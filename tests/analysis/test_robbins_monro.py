"""Robbins-Monro conditions: verdicts on all families of schedules, fits to functions, and invalid schedules."""

import dataclasses
import math

import pytest
import torch
from torch.optim import lr_scheduler

from dashpot.analysis import robbins_monro
from dashpot.errors import ArgumentError
from dashpot.schedules import (
    SHAPES,
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

WARMUP = LinearWarmup(100)
NOT_VANISHING = ("not satisfied", False, True, False)
SATISFIED = ("satisfied", True, True, True)
FINITE_REACH = ("not satisfied", True, False, True)
ENDS = ("not applicable", None, None, None)

VERDICTS = [
    (Constant(), NOT_VANISHING),
    (Constant(0.0), FINITE_REACH),
    (InverseTime(0.1), SATISFIED),
    (InverseTime(0.1, interval=10), SATISFIED),
    (InverseTime(0.0), NOT_VANISHING),
    (StepDecay(0.5, every=30), FINITE_REACH),
    (StepDecay(1.0, every=30), NOT_VANISHING),
    (Exponential(0.99), FINITE_REACH),
    (Exponential(1.01), NOT_VANISHING),
    (MultiStep((10, 20)), NOT_VANISHING),
    (Linear(1.0, 0.0, steps=50), ENDS),
    (Linear(0.1, 1.0, steps=50), NOT_VANISHING),
    (Linear(0.0, 0.0, steps=50), FINITE_REACH),
    (Polynomial(100), ENDS),
    (Cosine(100), ENDS),
    (Cosine(100, after="rise"), NOT_VANISHING),
    (CosineRestarts(10), NOT_VANISHING),
    (CosineRestarts(10, mult=2), NOT_VANISHING),
    (Cyclic(up=5), NOT_VANISHING),
    (OneCycle(100), ENDS),
    (WARMUP, NOT_VANISHING),
    (ExponentialWarmup(0.9), NOT_VANISHING),
    *[(Window(shape, steps=100), NOT_VANISHING) for shape in SHAPES],
    (OriginalWindow("raised-cosine", steps=8, hold=2), NOT_VANISHING),
    (Plateau(), NOT_VANISHING),
    (WARMUP * Constant(0.5), NOT_VANISHING),
    (WARMUP * InverseTime(0.1), SATISFIED),
    (WARMUP * Exponential(0.99), FINITE_REACH),
    (WARMUP * Cosine(1000), ENDS),
    (Cyclic(up=5) * InverseTime(0.1), SATISFIED),
    (InverseTime(0.1) * InverseTime(0.2), FINITE_REACH),
    (Exponential(0.5) * Exponential(2.0), NOT_VANISHING),
    (Exponential(0.99) * InverseTime(0.1), FINITE_REACH),
    (Sequence((WARMUP, InverseTime(0.1)), (100,)), SATISFIED),
    (Sequence((WARMUP, Cosine(900)), (100,)), ENDS),
    (Sequence((Constant(), Constant(0.0)), (10,)), ENDS),
]


@pytest.mark.parametrize(("schedule", "expected"), VERDICTS, ids=lambda item: repr(item)[:60])
def test_verdict_of_named_schedule_follows_from_formula(schedule, expected):
    found = robbins_monro(schedule, base=0.1)
    assert (found.verdict, found.vanishes, found.sum_diverges, found.squares_converge) == expected
    assert found.satisfied is {"satisfied": True, "not satisfied": False}.get(found.verdict)
    assert found.fit is None


def test_every_schedule_class_has_a_verdict():
    tested = {type(schedule) for schedule, _ in VERDICTS}
    built_in = {cls for cls in Schedule.registry.values() if cls.__module__.startswith("dashpot.schedules")}
    assert built_in - tested == {OneCycleMomentum}
    assert Product in tested


# The exponents of the first three fits are those of T = 1e5 values.
FITS = [
    (lambda step: 1 / (1 + 0.1 * (step + 1)), 100_000, 1.00, "consistent"),
    (lambda step: (step + 1) ** -0.5, 100_000, 0.500, "not consistent"),
    (lambda step: 0.9999**step, 100_000, 7.27, "not consistent"),
    (lambda step: (step + 1) ** -0.509, 10_000, 0.509, "not consistent"),  # not resolved from 1/2
    (lambda step: (step + 1) ** -0.52, 10_000, 0.52, "consistent"),
    (lambda step: 1 / (step + 1), 10_000, 1.0, "consistent"),
    (lambda step: (step + 1) ** -1.02, 10_000, 1.02, "not consistent"),
    (lambda step: (step + 1) ** -0.3, 10_000, 0.3, "not consistent"),
    (lambda step: 0.1, 10_000, 0.0, "not consistent"),
    (lambda step: 0.1 * (step + 1) ** 0.4, 10_000, -0.4, "not consistent"),
]


@pytest.mark.parametrize(("function", "steps", "power", "verdict"), FITS)
def test_verdict_of_function_follows_from_fitted_power(function, steps, power, verdict):
    found = robbins_monro(function, steps=steps)
    assert found.power == pytest.approx(power, abs=0.005)  # the digits given for functions that are not powers
    assert found.verdict == verdict
    assert found.satisfied is None
    assert "prove" not in found.summary()


def test_fit_of_power_is_exact():
    found = robbins_monro(lambda step: 3.0 * (step + 1) ** -0.75, base=0.5, steps=10_000)
    assert found.power == pytest.approx(0.75, abs=1e-9)  # rounding of logarithms
    assert found.fit.prefactor == pytest.approx(1.5, rel=1e-8)


def test_fit_to_function_without_decay_reports_no_infinite_reach():
    found = robbins_monro(lambda step: max(0.0, 1 - step / 500), steps=10_000)
    assert (found.verdict, found.sum_diverges) == ("not consistent", False)
    assert "0 from step 500 on" in found.reason


@dataclasses.dataclass(frozen=True)
class SquareRoot(Schedule):
    def _at(self, step):
        return (1 + step) ** -0.5


@dataclasses.dataclass(frozen=True)
class Slower(InverseTime):
    def _at(self, step):
        return (1 + step) ** -0.25


def test_user_defined_schedule_is_fitted_even_if_derived_from_a_named_one():
    assert robbins_monro(SquareRoot(), steps=10_000).power == pytest.approx(0.5, abs=1e-9)
    assert robbins_monro(Slower(1.0), steps=10_000).power == pytest.approx(0.25, abs=1e-9)
    assert robbins_monro(Sequence((WARMUP, SquareRoot()), (100,)), steps=20_000).power == pytest.approx(0.5, abs=0.01)


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


TORCH = [
    (lr_scheduler.ConstantLR, NOT_VANISHING),
    (lambda opt: lr_scheduler.StepLR(opt, 10), FINITE_REACH),
    (lambda opt: lr_scheduler.MultiStepLR(opt, [10]), NOT_VANISHING),
    (lambda opt: lr_scheduler.ExponentialLR(opt, 0.9), FINITE_REACH),
    (lr_scheduler.LinearLR, NOT_VANISHING),
    (lambda opt: lr_scheduler.PolynomialLR(opt, 10), ENDS),
    (lambda opt: lr_scheduler.CosineAnnealingLR(opt, 50), NOT_VANISHING),
    (lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 5), NOT_VANISHING),
    (lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1), NOT_VANISHING),
    (lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, 100), ENDS),
    (lr_scheduler.ReduceLROnPlateau, NOT_VANISHING),
    (lambda opt: lr_scheduler.LambdaLR(opt, InverseTime(0.1)), SATISFIED),
    (
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.LinearLR(opt), lr_scheduler.PolynomialLR(opt, 10)], milestones=[5]
        ),
        ENDS,
    ),
]


@pytest.mark.parametrize(("make", "expected"), TORCH)
def test_verdict_of_torch_scheduler(make, expected):
    scheduler = make(optimizer())
    before = scheduler.state_dict().get("last_epoch")
    found = robbins_monro(scheduler)
    assert (found.verdict, found.vanishes, found.sum_diverges, found.squares_converge) == expected
    assert scheduler.state_dict().get("last_epoch") == before


@pytest.mark.slow
def test_verdict_of_torch_scheduler_without_formula_is_fitted():
    inverse = robbins_monro(lr_scheduler.LambdaLR(optimizer(), lambda step: 1 / (1 + step)), steps=10_000)
    assert inverse.verdict == "consistent"
    geometric = robbins_monro(lr_scheduler.MultiplicativeLR(optimizer(), lambda step: 0.999), steps=10_000)
    assert (geometric.verdict, geometric.sum_diverges) == ("not consistent", False)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (3, "schedule must be a Schedule, a Plateau, a torch scheduler or a function of the step, got 3"),
        (lambda step: -0.1, r"the learning rate must be a number in \[0, inf\) at every step, got -0.1 at 0"),
        (lambda step: math.nan, "got nan at 0"),
        (lambda step: math.inf, "got inf at 0"),
        (lambda step: float(step % 2), "the rate must be positive to fit a power of t, got 0"),
        (OneCycleMomentum(10), "whose values are the momentum"),
    ],
)
def test_invalid_schedule_raises(schedule, message):
    with pytest.raises(ArgumentError, match=message):
        robbins_monro(schedule, steps=10_000)


@pytest.mark.parametrize("options", [{"base": 0.0}, {"base": -1.0}, {"steps": 9_999}, {"steps": 1e5}])
def test_invalid_option_raises(options):
    with pytest.raises(ArgumentError, match=r"robbins_monro: (base|steps) must be"):
        robbins_monro(InverseTime(0.1), **options)


def test_sums_scale_with_base():
    found = robbins_monro(Cosine(100), base=0.1)
    assert found.reach.total == pytest.approx(5.05, rel=1e-12)
    assert found.reach.squares == pytest.approx(0.38, rel=1e-12)
    assert "5.05" in found.summary()
    assert found.to_dict()["total"] == found.reach.total


@pytest.mark.parametrize("schedule", [InverseTime(0.1), Cosine(10), Constant(0.0)])
def test_plot_returns_figure_of_given_axes(schedule):
    figure = robbins_monro(schedule).plot()
    assert robbins_monro(schedule).plot(figure.axes[0]) is figure
