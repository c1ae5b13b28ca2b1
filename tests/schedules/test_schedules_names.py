"""Schedules by name."""

import pytest

import dashpot.schedules as sch
from dashpot.errors import ArgumentError

BUILT = {
    "constant": ({}, sch.Constant()),
    "linear": ({"floor": 0.1}, sch.Polynomial(100, floor=0.1)),
    "polynomial": ({"power": 2}, sch.Polynomial(100, 2)),
    "cosine": ({"floor": 0.1}, sch.Cosine(100, 0.1)),
    "cosine-restarts": ({"cycles": 3}, sch.CosineRestarts(34)),
    "exponential": ({"final": 0.01}, sch.Exponential(0.01**0.01)),
    "inverse-time": ({"final": 0.5}, sch.InverseTime(0.01)),
    "step": ({"drops": 3}, sch.StepDecay(0.1, 25)),
    "1cycle": ({"div": 10}, sch.OneCycle(100, div=10)),
    "1cycle-momentum": ({}, sch.OneCycleMomentum(100)),
    "window": ({"shape": "logistic", "half": False}, sch.Window("logistic", 100, half=False)),
    "warmup": ({}, sch.Sequence((sch.LinearWarmup(10), sch.Constant()), (10,))),
    "warmup-linear": ({"warmup": 0.2}, sch.Sequence((sch.LinearWarmup(20), sch.Polynomial(80)), (20,))),
    "warmup-cosine": ({"start": 0.5}, sch.Sequence((sch.LinearWarmup(10, 0.5), sch.Cosine(90)), (10,))),
}


def test_every_name_is_tested():
    assert BUILT.keys() == sch.NAMES.keys()


@pytest.mark.parametrize("name", BUILT)
def test_name_builds_the_schedule(name):
    options, expected = BUILT[name]
    assert sch.from_name(name, 100, **options) == expected


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize("steps", [2, 3, 7, 100])
def test_every_name_works_for_any_number_of_steps(name, steps):
    options = {"shape": "polynomial"} if name == "window" else {}
    table = sch.from_name(name, steps, **options).table(steps + 1)
    assert all(0 <= value <= 1 for value in table)


FINALS = [("exponential", 0.01), ("inverse-time", 0.1), ("cosine", 0.0), ("linear", 0.0)]


@pytest.mark.parametrize(("name", "final"), FINALS)
def test_final_factor_is_reached_after_the_last_step(name, final):
    assert sch.from_name(name, 60)(60) == pytest.approx(final, rel=1e-12)


@pytest.mark.parametrize("name", ["warmup-linear", "warmup-cosine"])
@pytest.mark.parametrize(("warmup", "peak"), [(0.0, 0), (0.25, 10), (1.0, 40)])
def test_warmup_peaks_after_its_fraction(name, warmup, peak):
    table = sch.from_name(name, 40, warmup=warmup).table(41)
    assert table.index(1.0) == peak


def test_step_has_the_given_number_of_drops():
    assert len(set(sch.from_name("step", 100, drops=4).table(100))) == 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "Unknown schedule 'cosin': did you mean 'cosine'?"),
        ("cosine", {"flor": 0.1}, "Unknown option of schedule 'cosine' 'flor': did you mean 'floor'?"),
        ("constant", {"floor": 0.1}, "Unknown option of schedule 'constant' 'floor'"),
        ("window", {}, "Schedule 'window': option 'shape' is missing"),
        ("cosine", {"floor": 2}, r"Cosine: floor must be a number in \[0, 1\], got 2"),
        ("warmup", {"warmup": 1.5}, r"warmup must be a number in \[0, 1\], got 1.5"),
        ("step", {"drops": 0}, "step: drops must be an integer"),
        ("cosine-restarts", {"cycles": 0}, "cosine-restarts: cycles must be an integer"),
        ("exponential", {"final": 0}, "exponential: final must be a number"),
        ("inverse-time", {"final": 0}, "inverse-time: final must be a number"),
    ],
)
def test_unknown_names_and_options_raise(name, options, message):
    with pytest.raises(ArgumentError, match=message):
        sch.from_name(name, 100, **options)


@pytest.mark.parametrize("steps", [0, -1, 1.5, "10", None])
def test_invalid_number_of_steps_raises(steps):
    with pytest.raises(ArgumentError, match=r"Schedule 'cosine': steps must be an integer in \[1, inf\)"):
        sch.from_name("cosine", steps)


def test_split_name_parses_options():
    name, options = sch.split_name("cosine-restarts:cycles=2,mult=5")
    schedule = sch.from_name(name, 600, **options)
    assert schedule == sch.CosineRestarts(first=100, mult=5)
    assert schedule.value(1.0, 99) < 0.01
    assert schedule.value(1.0, 100) == 1.0
    assert schedule.value(1.0, 599) < 0.01


@pytest.mark.parametrize("text", ["cosine:floor", "cosine:floor=", "cosine:=1", "cosine:floor=0,floor=1", "cosine:,"])
def test_malformed_options_raise(text):
    with pytest.raises(ArgumentError, match="options must be distinct OPTION=VALUE pairs"):
        sch.split_name(text)
