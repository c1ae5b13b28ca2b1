"""Schedules against torch's schedulers and golden values."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from schedules_support import FACTORS, golden, label
from torch.optim import lr_scheduler

import dashpot.schedules as sch
from dashpot.errors import ArgumentError

GOLDEN = golden("torch_schedules")["cases"]
BASE = 0.1

# torch uses recurrences or multiplies a base value. Tolerances: 1e-12 relative, and 1e-16 of the base near zero.
CLOSE = {"rtol": 1e-12, "atol": 1e-17}


def golden_schedule(case):
    """Return the base value and the schedule equivalent to a golden case of torch."""
    c, base = case["config"], case["base_lr"]
    steps = c.get("total_steps")
    one = {"pct_start": c.get("pct_start", 0.3), "three_phase": c.get("three_phase", False)}
    one["anneal"] = {"cos": "cosine"}.get(c.get("anneal_strategy", "cos"), "linear")
    return {
        "CosineAnnealingLR": lambda: (base, sch.Cosine(c["T_max"], floor=c["eta_min"] / base, after="rise")),
        "CosineAnnealingWarmRestarts": lambda: (base, sch.CosineRestarts(c["T_0"], c["T_mult"], c["eta_min"] / base)),
        "OneCycleLR": lambda: (c["max_lr"], sch.OneCycle(steps, **one)),
        "OneCycleLR momentum": lambda: (math.nan, sch.OneCycleMomentum(steps, **one)),
        "LinearLR": lambda: (base, sch.Linear(c["start_factor"], c["end_factor"], c["total_iters"])),
        "PolynomialLR": lambda: (base, sch.Polynomial(c["total_iters"], c["power"])),
        "ExponentialLR": lambda: (base, sch.Exponential(c["gamma"])),
        "StepLR": lambda: (base, sch.StepDecay(c["gamma"], every=c["step_size"])),
        "MultiStepLR": lambda: (base, sch.MultiStep(c["milestones"], c["gamma"])),
        "ConstantLR": lambda: (base, sch.Sequence((sch.Constant(c["factor"]), sch.Constant()), (c["total_iters"],))),
        "CyclicLR": lambda: (c["max_lr"], sch.Cyclic(c["step_size_up"], floor=c["base_lr"] / c["max_lr"])),
        "InverseTime": lambda: (base, sch.InverseTime(c["decay_rate"])),
        "InverseTimeStaircase": lambda: (base, sch.InverseTime(c["decay_rate"], interval=c["time_interval"])),
    }


def values(schedule, base, count):
    return [schedule.value(base, step) for step in range(count)]


def sgd(lr=BASE, **options):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **options)


def torch_values(build, count, optimizer=None, key="lr"):
    """Return the values of torch's scheduler for the first `count` steps."""
    optimizer = optimizer or sgd()
    scheduler, seen = build(optimizer), []
    for _ in range(count):
        seen.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["scheduler"])
def test_rate_equals_golden(case):
    base, schedule = golden_schedule(case)[case["scheduler"]]()
    np.testing.assert_allclose(values(schedule, base, len(case["lr"])), case["lr"], rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("case", [c for c in GOLDEN if c["momentum"]], ids=lambda case: str(case["config"]))
def test_momentum_equals_golden(case):
    base, schedule = golden_schedule(case)["OneCycleLR momentum"]()
    np.testing.assert_allclose(values(schedule, base, len(case["momentum"])), case["momentum"], rtol=1e-12)


MAPPINGS = {
    "cosine": (lambda o: lr_scheduler.CosineAnnealingLR(o, 9, 0.02), sch.Cosine(9, floor=0.2, after="rise"), 30),
    "cosine-window": (lambda o: lr_scheduler.CosineAnnealingLR(o, 9, 0.02), sch.Window("raised-cosine", 9, 2, 0.2), 9),
    "restarts": (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 3), sch.CosineRestarts(5, 3), 70),
    "restarts-window": (
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 1, 0.02),
        sch.Window("raised-cosine", 5, floor=0.2),
        17,
    ),
    "linear": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, 8), sch.Linear(1.0, 0.25, 8), 20),
    "linear-window": (lambda o: lr_scheduler.LinearLR(o, 1.0, 0.25, 8), sch.Window("polynomial", 8, 1, 0.25), 8),
    "warmup": (lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 8), sch.LinearWarmup(8, start=0.1), 20),
    "polynomial": (lambda o: lr_scheduler.PolynomialLR(o, 8, 1.5), sch.Polynomial(8, 1.5), 20),
    "polynomial-window": (lambda o: lr_scheduler.PolynomialLR(o, 8, 1.5), sch.Window("polynomial", 8, 1.5), 8),
    "triangle-window": (
        lambda o: lr_scheduler.CyclicLR(o, 0.02, 0.1, 4, cycle_momentum=False),
        sch.Window("polynomial", 8, 1, 0.2, half=False),
        30,
    ),
    "triangle": (
        lambda o: lr_scheduler.CyclicLR(o, 0.02, 0.1, 4, 7, cycle_momentum=False),
        sch.Cyclic(up=4, down=7, floor=0.2),
        30,
    ),
    "triangle-halved": (
        lambda o: lr_scheduler.CyclicLR(o, 0.0, 0.1, 4, 7, mode="triangular2", cycle_momentum=False),
        sch.Cyclic(up=4, down=7) * sch.StepDecay(0.5, every=11),
        50,
    ),
    "triangle-decaying": (
        lambda o: lr_scheduler.CyclicLR(o, 0.0, 0.1, 4, 7, mode="exp_range", gamma=0.9, cycle_momentum=False),
        sch.Cyclic(up=4, down=7) * sch.Exponential(0.9),
        50,
    ),
    "multiplicative": (lambda o: lr_scheduler.MultiplicativeLR(o, lambda _: 0.7), sch.Exponential(0.7), 20),
    "step": (lambda o: lr_scheduler.StepLR(o, 4, 0.3), sch.StepDecay(0.3, every=4), 20),
    "multi-step": (lambda o: lr_scheduler.MultiStepLR(o, [1, 4, 9], 0.3), sch.MultiStep((1, 4, 9), 0.3), 20),
    "exponential": (lambda o: lr_scheduler.ExponentialLR(o, 1.3), sch.Exponential(1.3), 50),
    "constant": (
        lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
        sch.Sequence((sch.Constant(0.5), sch.Constant()), (4,)),
        10,
    ),
    "sequence": (
        lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.2, 1.0, 5), lr_scheduler.CosineAnnealingLR(o, 9)], [5]
        ),
        sch.Sequence((sch.LinearWarmup(5, start=0.2), sch.Cosine(9)), (5,)),
        14,
    ),
    "product": (
        lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ExponentialLR(o, 0.9), lr_scheduler.LinearLR(o, 0.2, 1.0, 5)]
        ),
        sch.Exponential(0.9) * sch.LinearWarmup(5, start=0.2),
        14,
    ),
}


@pytest.mark.parametrize("name", MAPPINGS)
def test_schedule_equals_the_torch_scheduler_it_maps_to(name):
    build, schedule, count = MAPPINGS[name]
    np.testing.assert_allclose(values(schedule, BASE, count), torch_values(build, count), **CLOSE)


@pytest.mark.parametrize("schedule", FACTORS, ids=label)
def test_factor_is_a_valid_torch_lambda(schedule):
    drawn = torch_values(lambda o: lr_scheduler.LambdaLR(o, schedule), 30)
    assert drawn == values(schedule, BASE, 30)


@settings(deadline=None, max_examples=30)
@given(
    steps=st.integers(5, 60),
    pct_start=st.floats(0.05, 0.5),
    div=st.floats(1, 50),
    final_div=st.floats(0.5, 1e5),
    anneal=st.sampled_from(["cosine", "linear"]),
    three_phase=st.booleans(),
)
def test_one_cycle_equals_torch(steps, pct_start, div, final_div, anneal, three_phase):
    assume(pct_start * steps != 1)  # torch then divides by zero
    common = {"pct_start": pct_start, "three_phase": three_phase}
    strategy = {"cosine": "cos", "linear": "linear"}[anneal]
    theirs = {"div_factor": div, "final_div_factor": final_div, "anneal_strategy": strategy, **common}
    seen = {
        key: torch_values(lambda o: lr_scheduler.OneCycleLR(o, 0.3, steps, **theirs), steps, sgd(momentum=0.9), key)
        for key in ("lr", "momentum")
    }
    rate = sch.OneCycle(steps, div=div, final_div=final_div, anneal=anneal, **common)
    momentum = sch.OneCycleMomentum(steps, anneal=anneal, **common)
    # torch evaluates end + (start - end) c, whose rounding error near the end is 1e-16 of the peak.
    np.testing.assert_allclose(values(rate, 0.3, steps), seen["lr"], rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(values(momentum, math.nan, steps), seen["momentum"], rtol=1e-12)


def test_one_cycle_is_constant_after_the_last_step():
    optimizer = sgd(momentum=0.9)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1e-2, 354)
    for _ in range(354):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr()[0] == pytest.approx(4.42e-7, rel=1e-2)
    with pytest.raises(ValueError, match="Tried to step 355 times"):
        scheduler.step()
    ours = sch.OneCycle(354)
    assert ours(353) == ours(354) == ours(10**6)
    assert 1e-2 * ours(353) == pytest.approx(4e-8, rel=1e-12)


def test_one_cycle_peak_is_reached_only_at_an_integer_step():
    assert max(sch.OneCycle(40).table(40)) == 1.0
    table = sch.OneCycle(354).table(354)
    assert table.index(max(table)) == 105
    assert max(table) == pytest.approx(1 - 8.6e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("cycle", "expected"),
    [
        (sch.OneCycle(1), [4e-6] * 3),  # the rising phase ends before the first step
        (sch.OneCycle(2, pct_start=0.5, anneal="linear"), [1.0, 4e-6, 4e-6]),  # up = 0: the first step is the peak
        (sch.OneCycle(3, pct_start=1.0, anneal="linear"), [0.04, 0.52, 1.0, 1.0]),  # no falling phase
    ],
)
def test_one_cycle_of_few_steps(cycle, expected):
    assert cycle.table(len(expected)) == pytest.approx(expected, rel=1e-12)


RAMPS = [
    (sch.Linear(0.2, 0.7, 7), 0.7),
    (sch.LinearWarmup(7, 0.3), 1.0),
    (sch.Polynomial(7, 2.5, 0.1), 0.1),
    (sch.Cosine(7, 0.1), 0.1),
]


@pytest.mark.parametrize(("ramp", "end"), RAMPS, ids=label)
def test_ramp_reaches_its_end_exactly_and_holds(ramp, end):
    assert ramp.table(20)[7:] == [end] * 13
    assert ramp(6) != end


def test_cosine_holds_the_floor_after_the_end():
    assert sch.Cosine(8, 0.1)(12) == 0.1
    assert sch.Cosine(8, 0.1, after="rise")(16) == 1.0
    assert sch.Window("raised-cosine", 8, floor=0.1)(8) == 1.0
    assert sch.CosineRestarts(8, floor=0.1)(8) == 1.0


def test_exponential_warmup_reaches_the_documented_fractions():
    assert sch.ExponentialWarmup(0.99)(99) == pytest.approx(0.634, abs=5e-4)
    assert sch.ExponentialWarmup(0.99)(299) == pytest.approx(0.951, abs=5e-4)
    assert sch.ExponentialWarmup(0.0).table(3) == [1.0, 1.0, 1.0]


@settings(deadline=None, max_examples=80)
@given(
    history=st.lists(st.floats(0.1, 10) | st.just(math.nan), max_size=40),
    factor=st.floats(0.1, 0.9),
    patience=st.integers(0, 3),
    threshold=st.sampled_from([0.0, 1e-4, 0.2]),
    mode=st.sampled_from(["min", "max"]),
    threshold_mode=st.sampled_from(["rel", "abs"]),
    cooldown=st.integers(0, 3),
    floor=st.sampled_from([0.0, 0.3]),
    eps=st.sampled_from([1e-8, 0.05]),
)
def test_plateau_equals_torch_at_every_value(history, floor, **options):
    optimizer = sgd(lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=floor, **options)
    ours = sch.Plateau(floor=floor, **options)
    assert ours.factor_after([]) == 1.0
    for count, value in enumerate(history, start=1):
        theirs.step(value)
        assert ours.factor_after(history[:count]) == optimizer.param_groups[0]["lr"]


def test_plateau_accepts_tensors_and_rejects_non_numbers():
    assert sch.Plateau(patience=0).factor_after(torch.tensor([1.0, 2.0, 2.0])) == pytest.approx(0.01)
    with pytest.raises(ArgumentError, match="Plateau: history must contain numbers, got None"):
        sch.Plateau().factor_after([1.0, None])


def plateau_arguments():
    for item in dataclasses.fields(sch.Plateau):
        for bad in item.metadata["allowed"].refused():
            yield pytest.param(item.name, bad, id=f"{item.name}-{bad!r}")


@pytest.mark.parametrize(("name", "bad"), list(plateau_arguments()))
def test_plateau_rejects_arguments_out_of_range(name, bad):
    with pytest.raises(ArgumentError, match=rf"^Plateau: {name} must be .*, got .*\.$"):
        sch.Plateau(**{name: bad})
