"""Sums of learning rates: closed forms against partial sums."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from dashpot.analysis import reach
from dashpot.errors import ArgumentError
from dashpot.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    LinearWarmup,
    OneCycle,
    OneCycleMomentum,
    Plateau,
    Sequence,
    StepDecay,
)

CLOSED = [
    (Exponential(0.9), 400),
    (StepDecay(0.5, every=7), 400),
    (Constant(3.0) * Exponential(0.9), 400),
    (LinearWarmup(20) * Exponential(0.9), 400),
    (Sequence((LinearWarmup(20), Exponential(0.9)), (20,)), 400),
    (Linear(1.0, 0.0, steps=50), 60),
]


@pytest.mark.parametrize(("schedule", "terms"), CLOSED, ids=lambda item: repr(item)[:50])
def test_infinite_sums_equal_partial_sums(schedule, terms):
    sums = reach(schedule, base=0.5)
    table = [0.5 * schedule(step) for step in range(terms)]
    assert sums.total_limit == pytest.approx(math.fsum(table), rel=1e-12)  # rounding; the remainder is below 1e-18
    assert sums.squares_limit == pytest.approx(math.fsum(value**2 for value in table), rel=1e-12)


@pytest.mark.parametrize("rate", [1e-4, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("interval", [None, 10])
def test_sum_of_squares_of_inverse_time(rate, interval):
    sums = reach(InverseTime(rate, interval=interval))
    terms, hold = 200_000, interval or 1
    partial = math.fsum(1 / (1 + rate * s) ** 2 for s in range(terms))
    x = 1 + rate * terms
    rest = 1 / (rate * x) + 1 / (2 * x * x)  # integral plus half of the first term; the next term is below rate/x^3
    assert sums.squares_limit == pytest.approx(hold * (partial + rest), rel=1e-10)
    assert sums.total == math.inf


def test_finite_horizon_is_the_default_number_of_steps():
    sums = reach(OneCycle(100), base=0.2)
    table = [0.2 * OneCycle(100)(step) for step in range(100)]
    assert (sums.steps, sums.first, sums.highest, sums.last) == (100, table[0], max(table), table[-1])
    assert sums.total == pytest.approx(math.fsum(table), rel=1e-15)
    assert reach(OneCycle(100), steps=10, base=0.2).total == pytest.approx(math.fsum(table[:10]), rel=1e-15)


def test_weights_move_by_at_most_total_and_by_diffusion_in_noise():
    generator = torch.Generator().manual_seed(0)
    schedule, directions = Cosine(50), torch.randn(50, 10_000, generator=generator, dtype=torch.float64)
    rates = torch.tensor(schedule.table(50), dtype=torch.float64)
    sums = reach(schedule)
    assert float(rates.sum()) == pytest.approx(sums.total, rel=1e-12)
    spread = float((rates[:, None] * directions).sum(0).std())
    assert spread == pytest.approx(sums.diffusion, rel=0.03)  # 4 standard errors of 10 000 samples


@pytest.mark.parametrize(
    ("schedule", "last", "highest"),
    [
        (Exponential(0.9), 0.0, 1.0),
        (Constant(2.0), 2.0, 2.0),
        (InverseTime(1.0), 0.0, 1.0),
        (Exponential(1.1), math.inf, math.inf),
    ],
)
def test_schedule_without_end_has_limits(schedule, last, highest):
    sums = reach(schedule)
    assert (sums.steps, sums.last, sums.highest) == (None, last, highest)


def test_infinite_values_are_text_in_data():
    data = reach(InverseTime(1.0)).to_dict()
    assert (data["total"], data["squares"]) == ("infinite", pytest.approx(math.pi**2 / 6, rel=1e-12))
    assert "infinite" in str(reach(Constant()))


def test_sum_without_closed_form_is_none():
    sums = reach(InverseTime(1.0) * InverseTime(2.0))
    assert (sums.total, sums.squares) == (None, None)
    assert "pass `steps`" in sums.summary()


def test_torch_scheduler_is_simulated():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    assert reach(lr_scheduler.StepLR(opt, 2, 0.5), steps=4).total == 0.5 + 0.5 + 0.25 + 0.25
    assert reach(lr_scheduler.PolynomialLR(opt, 4), base=7.0).steps == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1,), "schedule must be a Schedule, a torch scheduler or a function of the step, got 0.1"),
        ((Plateau(),), "schedule must depend only on the step, got Plateau"),
        ((lambda step: 1.0,), "steps must be given for <lambda>"),
        ((lambda step: -1.0, 5), "the learning rate must be a number"),
        ((OneCycleMomentum(10),), "whose values are the momentum"),
        ((Cosine(10), 0), r"steps must be None or an integer in \[1, inf\), got 0"),
        ((Cosine(10), None, -1.0), "base must be"),
    ],
)
def test_invalid_argument_raises(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        reach(*arguments)


@pytest.mark.parametrize("schedule", [Exponential(0.9), Cosine(10)])
def test_plot_returns_figure_of_given_axes(schedule):
    figure = reach(schedule).plot()
    assert reach(schedule).plot(figure.axes) is figure


@pytest.mark.parametrize(("schedule", "held"), [(Cosine(10, floor=0.1), True), (Exponential(0.9), False)])
def test_infinite_sums_of_schedule_that_ends_hold_the_final_value(schedule, held):
    [meaning] = [item.meaning for item in reach(schedule, 10).quantities() if item.name == "total_limit"]
    assert ("holding the final value" in meaning) is held
