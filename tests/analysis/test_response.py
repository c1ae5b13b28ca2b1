"""Response of filters against the filter code and against sums over its impulse response."""

import json
import math

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.analysis import RationalFilter, response
from dashpot.analysis.filter_response import _search_half_power, _search_horizon, debias_horizon, half_power
from dashpot.errors import ArgumentError
from dashpot.stages.filter import step_response

NAG = 0.9 / 1.9
SETTINGS = (
    (0.9, 0.0),
    (0.9, NAG),
    (0.9, 1 - math.sqrt(0.2)),
    (0.8, -0.4),
    (0.5, -1.5),
    (0.6, 0.8),
    (0.0, 0.0),
    (0.7, 0.7),
)


def outputs(stage, inputs):
    """Return the outputs of the filter code: the weights of steps with lr = 1 decrease by the direction."""
    recipe = dp.Recipe(stage, lr=1.0)
    w = torch.zeros((), dtype=torch.float64)
    state, found = dp.functional.init(recipe, w), []
    for step, x in enumerate(inputs):
        moved, state = dp.functional.update(recipe, torch.zeros_like(w), torch.tensor(x, dtype=w.dtype), state, step)
        found.append(-float(moved))
    return found


@pytest.mark.parametrize(("pole", "zero"), SETTINGS)
def test_impulse_and_step_equal_filter_code(pole, zero):
    n = 30
    result = response(dp.Filter(pole, zero))
    pulse, constant = [1.0] + [0.0] * (n - 1), [1.0] * n
    plain = dp.Filter(pole, zero, normalise="none")
    assert result.impulse(n) == pytest.approx(outputs(plain, pulse), rel=1e-12, abs=1e-12)
    assert result.step(n) == pytest.approx(outputs(plain, constant), rel=1e-12, abs=1e-12)
    corrected = np.array(outputs(dp.Filter(pole, zero), pulse))
    scales = np.array([step_response(pole, zero, t) for t in range(1, n + 1)])
    assert result.impulse(n) == pytest.approx(corrected * scales, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("zero", "noise_gain", "delay", "gain_at_pi", "half"),
    [
        (0.0, 0.05263, 9.0, 0.0526, 0.1055),
        (NAG, 0.07063, 8.1, 0.1474, 0.1075),
        (1 - math.sqrt(0.2), 0.08173, 7.764, 0.1827, 0.1089),
    ],
)
def test_numbers_of_three_zeros(zero, noise_gain, delay, gain_at_pi, half):
    result = response(dp.Filter(0.9, zero))
    assert result.dc_gain == pytest.approx(1.0, rel=1e-12)
    assert result.noise_gain == pytest.approx(noise_gain, abs=5e-6)  # digits of the table
    assert result.mean_delay == pytest.approx(delay, abs=5e-4)
    assert abs(result.at(math.pi)) == pytest.approx(gain_at_pi, abs=5e-5)
    assert result.half_power == pytest.approx(half, abs=5e-5)


def test_memory_of_average():
    result = response(dp.Filter(0.9))
    assert result.averaged_samples == pytest.approx(19.0)
    assert result.time_constant == pytest.approx(-1 / math.log(0.9))
    assert (result.poles, result.zeros, result.gain) == ((0.9,), (0.0,), pytest.approx(0.1))


@pytest.mark.parametrize("length", [1, 2, 10, 1000])
def test_average_of_length_n_is_as_noisy_as_the_mean_of_2n_minus_1_samples(length):
    result = response(dp.Filter(dp.momentum_forms.pole_of_length(length)))
    mean = np.full(2 * length - 1, 1 / (2 * length - 1))
    assert result.noise_gain == pytest.approx((mean**2).sum(), rel=1e-9)  # rounding of 1 - 1/length
    assert result.mean_delay == pytest.approx((np.arange(2 * length - 1) * mean).sum(), rel=1e-9, abs=1e-12)
    assert result.equivalents(batch=32)["examples"].settings["examples"] == pytest.approx(32 * length)


def test_gain_of_heavy_ball_scales_the_average():
    ball, average = response(dp.HeavyBall.recipe_for(momentum=0.9)), response(dp.Filter(0.9))
    assert ball.dc_gain == pytest.approx(10 * average.dc_gain)
    assert ball.noise_gain == pytest.approx(100 * average.noise_gain)
    assert (ball.half_power, ball.averaged_samples) == pytest.approx((average.half_power, average.averaged_samples))


@pytest.mark.parametrize(("pole", "zero"), [*SETTINGS, (-0.5, 0.2), (0.99, 0.0), (0.999, 0.9)])
def test_closed_forms_equal_searches(pole, zero):
    section = RationalFilter((zero,), (pole,), 2.0)
    closed, searched = half_power(section), _search_half_power(section)
    assert (closed is None) == (searched is None)
    if closed is not None:
        assert closed == pytest.approx(searched, rel=1e-8)  # rounding of |H|^2 where its slope is small
        assert abs(section.at(closed)) ** 2 == pytest.approx(section.dc_gain**2 / 2, rel=1e-9)
    assert debias_horizon(section) == _search_horizon(section)


@pytest.mark.parametrize(("pole", "zero"), SETTINGS)
def test_debias_horizon_counts_steps_of_filter_code(pole, zero):
    horizon = response(dp.Filter(pole, zero)).debias_horizon
    error = abs(np.array(outputs(dp.Filter(pole, zero, normalise="none"), [1.0] * (horizon + 5))) - 1)
    assert (error[horizon - 1 :] <= 0.01 + 1e-12).all()
    assert horizon == 1 or error[horizon - 2] > 0.01


def test_two_filters_have_second_order_response():
    recipe = dp.Recipe(dp.Filter(0.9), dp.Filter(0.8, 0.3, slot="second"))
    result = response(recipe)
    assert result.poles == (0.9, 0.8)
    assert result.mean_delay == pytest.approx(9 + 4 - 3 / 7)
    assert result.at(result.half_power).__abs__() == pytest.approx(math.sqrt(0.5), rel=1e-9)
    assert {item.settings for item in result.equivalents().values()} == {None}
    assert "order 2" in result.equivalents()["qhm"].note


def test_filter_without_dc_gain_has_no_delay_and_no_half_power():
    result = response(RationalFilter((1.0,), (0.5,)))
    assert (result.dc_gain, result.mean_delay, result.half_power, result.debias_horizon) == (0.0, None, None, None)
    assert result.averaged_samples == 0.0
    assert "amplifies noise" in result.summary()


def test_response_of_user_stage_gives_the_reason():
    result = response(dp.Recipe(dp.ChangeDecay(0.1), dp.Filter()))
    assert result.summary().startswith("Undefined: A filter after ChangeDecay")
    assert (result.dc_gain, result.poles, result.gain) == (None, (), None)
    for call in (lambda: result.impulse(3), lambda: result.step(3), lambda: result.at(0.1), result.equivalents):
        with pytest.raises(ArgumentError, match=r"the filter is undefined\. A filter after ChangeDecay"):
            call()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (dp.SGD.recipe_for(), "No memory: the direction is the latest gradient."),
        (dp.AdamW.recipe_for(), "as noisy as the mean of 19 gradients"),
        (dp.Filter(0.6, 0.8), "amplifies noise relative to a constant gradient"),
    ],
)
def test_summary_describes_memory(recipe, words):
    assert words in response(recipe).summary()


def test_to_dict_is_json_with_complex_roots():
    data = response(RationalFilter((), (0.5 + 0.5j, 0.5 - 0.5j))).to_dict()
    assert json.loads(json.dumps(data))["poles"] == ["0.5+0.5j", "0.5-0.5j"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: response("adam"), "recipe must be a Recipe, .* or a RationalFilter, got 'adam'"),
        (lambda: response(RationalFilter((), (1.1,))), "poles must be inside the unit circle, got 1.1"),
        (lambda: response(dp.Filter()).impulse(-1), r"impulse: n must be an integer in \[0, inf\), got -1"),
        (lambda: response(dp.Filter()).step(1.5), r"step: n must be an integer in \[0, inf\), got 1.5"),
        (lambda: response(dp.Filter()).equivalents(0), r"batch must be None or an integer in \[1, inf\), got 0"),
        (lambda: response(dp.Filter(), step=-1), r"response: step must be an integer in \[0, inf\), got -1"),
    ],
)
def test_invalid_arguments_raise(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
