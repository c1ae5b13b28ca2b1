"""The Filter stage against outputs recorded from the original AutoSGM filter and from exact linear filters."""

import golden_data as golden
import pytest
from stages_support import directions, tensor

from dashpot import Filter
from dashpot.stages.filter import unit_gain

DATA = golden.load("filters_raw")
CASES = DATA["cases"]
IDS = [f"pole={c['beta']}-zero={c['gamma']:.4g}-eta={c['eta']}-debias={c['debias']}" for c in CASES]
INPUTS = ["random", "step", "impulse"]
# The outputs reach 20, where float64 resolves 4e-15; the largest difference seen is 4e-15.
ROUNDING = 1e-12
# The exact debias divides by a step response as small as 1e-4, which magnifies rounding by 1e4; seen: 3e-13.
DEBIASED = 1e-11


def original(case):
    """Return the stage for the four arguments of the original, including its first-step quirk."""
    pole, zero, eta = case["beta"], case["gamma"], case["eta"]
    if case["debias"]:
        return Filter(pole, zero, normalise="autosgm")
    gain = None if eta == 0 else eta / (1 - zero)
    return Filter(pole, zero, gain, normalise="none", start="unscaled")


def error(stage, name, expected):
    return (directions([stage], DATA["inputs"][name]) - tensor(expected)).abs().max().item()


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_filter_matches_recorded_outputs(case, name):
    assert error(original(case), name, case["original"][name]) < ROUNDING


@pytest.mark.parametrize("name", ["random", "step"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_linear_filter_with_unit_dc_gain(case, name):
    stage = Filter(case["beta"], case["gamma"], normalise="none")
    assert error(stage, name, case["linear_unit_dc"][name]) < ROUNDING


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_exact_debias(case):
    assert error(Filter(case["beta"], case["gamma"]), "random", case["exact_debias"]["random"]) < DEBIASED


@pytest.mark.parametrize("case", DATA["running_average_min_tN"], ids=lambda c: f"N={c['N']}")
def test_running_average(case):
    stage = Filter(1 - 1 / case["N"], normalise="running")
    assert error(stage, "random", case["random"]) < ROUNDING


@pytest.mark.parametrize("case", [c for c in CASES if c["gamma"] != 0 and not c["debias"]])
def test_recording_requires_the_first_step_quirk(case):
    """The plain linear filter differs from the original at t = 1 by the factor 1 - zero."""
    plain = Filter(case["beta"], case["gamma"], original(case).gain, normalise="none")
    first = directions([plain], DATA["inputs"]["random"])[0].item()
    gain = plain.gain or unit_gain(plain.pole, plain.zero)
    assert first == pytest.approx(gain * DATA["inputs"]["random"][0], rel=1e-15)
    assert first * (1 - case["gamma"]) == pytest.approx(case["original"]["random"][0], rel=1e-14)
    assert abs(first - case["original"]["random"][0]) > 0.05


def test_all_recordings_are_used():
    assert len(CASES) == 15
    assert [c["N"] for c in DATA["running_average_min_tN"]] == [1, 5, 10]
    assert all(set(c["original"]) == {"random", "step", "impulse"} for c in CASES)
    assert all(set(c["linear_unit_dc"]) == {"random", "step"} and set(c["exact_debias"]) == {"random"} for c in CASES)
