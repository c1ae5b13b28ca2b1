"""Closed forms of the filter against simulation: responses, normalizations, varying settings."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import directions, few, noise, signals, stepped, tensor

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.stages.filter import Filter, carry, step_response, unit_gain

POLES = st.floats(0, 0.999)
ZEROS = st.floats(-1, 0.999)
IMPULSE = [1.0] + [0.0] * 11
STEP = [1.0] * 12
# Float64 sums of a dozen terms of size 1; poles of 0.999 magnify rounding a thousand times through 1 - pole^t.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def close(actual, expected):
    torch.testing.assert_close(actual, tensor(expected), **CLOSE)


@few
@given(POLES, ZEROS, st.floats(0.01, 5))
def test_impulse_response(pole, zero, gain):
    """The impulse response is h_0 = gain, h_k = gain (pole - zero) pole^(k-1)."""
    response = directions([Filter(pole, zero, gain, normalise="none")], IMPULSE)
    close(response, [gain] + [gain * (pole - zero) * pole ** (k - 1) for k in range(1, 12)])


@few
@given(POLES, ZEROS)
def test_step_response(pole, zero):
    """The output for a constant 1, and the sum of the taps, is S_t = 1 - (pole - zero)/(1 - zero) pole^(t-1)."""
    stage = Filter(pole, zero, normalise="none")
    expected = [1 - (pole - zero) / (1 - zero) * pole ** (t - 1) for t in range(1, 13)]
    close(directions([stage], STEP), expected)
    close(directions([stage], IMPULSE).cumsum(0), expected)
    assert [step_response(pole, zero, t) for t in range(1, 13)] == pytest.approx(expected, rel=1e-14, abs=1e-14)


@few
@given(POLES, ZEROS, st.floats(0.01, 5))
def test_equals_the_direct_recursion_of_the_transfer_function(pole, zero, gain):
    """The recursion y_t = pole y_{t-1} + gain (x_t - zero x_{t-1}) has two stored values."""
    inputs = noise(12).tolist()
    expected, y, last = [], 0.0, 0.0
    for x in inputs:
        y = pole * y + gain * (x - zero * last)
        last = x
        expected.append(y)
    close(directions([Filter(pole, zero, gain, normalise="none")], inputs), expected)


@few
@given(POLES, ZEROS)
def test_exact_preserves_a_constant_from_the_first_step(pole, zero):
    close(directions([Filter(pole, zero)], [3.0] * 12), [3.0] * 12)


@few
@given(POLES, ZEROS)
def test_exact_divides_the_linear_filter_by_its_step_response(pole, zero):
    inputs = noise(12).tolist()
    linear = directions([Filter(pole, zero, normalise="none")], inputs)
    exact = directions([Filter(pole, zero)], inputs)
    close(exact * tensor([step_response(pole, zero, t) for t in range(1, 13)]), linear.tolist())


@few
@given(POLES, st.floats(0, 1))
def test_exact_is_the_bias_correction_of_quasi_hyperbolic_momentum(beta, nu):
    """The output is (nu m_t + (1 - nu) g_t)/(1 - nu beta^t), where m starts from zero."""
    inputs = noise(12).tolist()
    m, expected = 0.0, []
    for t, g in enumerate(inputs, start=1):
        m = beta * m + (1 - beta) * g
        expected.append((nu * m + (1 - nu) * g) / (1 - nu * beta**t))
    point = dp.momentum_forms.qhm(beta, nu)
    close(directions([Filter(point.pole, point.zero)], inputs), expected)


@few
@given(POLES, st.floats(0, 1))
def test_memory_debiases_the_memory_only(beta, nu):
    """The output is QHAdam's numerator, (1 - nu) g_t + nu m_t/(1 - beta^t)."""
    inputs = noise(12).tolist()
    m, expected = 0.0, []
    for t, g in enumerate(inputs, start=1):
        m = beta * m + (1 - beta) * g
        expected.append((1 - nu) * g + nu * m / (1 - beta**t))
    point = dp.momentum_forms.qhm(beta, nu)
    close(directions([Filter(point.pole, point.zero, normalise="memory")], inputs), expected)


@few
@given(POLES, ZEROS)
def test_autosgm_first_output_is_the_first_input(pole, zero):
    assert directions([Filter(pole, zero, normalise="autosgm")], [0.7])[0].item() == pytest.approx(0.7, rel=1e-13)


@pytest.mark.parametrize(
    ("pole", "zero", "excess"),
    [(0.9, 0.9 / 1.9, 1.4263), (0.9, 1 - 0.2**0.5, 1.5855), (0.9, 0.9, 5.263), (0.8, -0.3, 0.897), (0.9, 0.0, 1.0)],
)
def test_autosgm_overshoot_at_the_second_step(pole, zero, excess):
    """The output is S_2/(1 - pole^2), compared with tabulated values of four digits; it is 1 for zero 0."""
    outputs = directions([Filter(pole, zero, normalise="autosgm")], STEP)
    assert outputs[0].item() == pytest.approx(1, rel=1e-14)
    assert outputs[1].item() == pytest.approx(step_response(pole, zero, 2) / (1 - pole**2), rel=1e-13)
    assert outputs[1].item() == pytest.approx(excess, abs=5e-4)


def test_autosgm_largest_overshoot_is_a_zero_on_the_pole():
    second = directions([Filter(0.9, 0.9, normalise="autosgm")], STEP)[1].item()
    assert second == pytest.approx(1 / (1 - 0.9**2), rel=1e-13)


@few
@given(POLES.filter(lambda p: p > 0.01), st.floats(-1, 0.99), st.floats(0.01, 5))
def test_unscaled_start_is_short_at_the_first_step_only(pole, zero, gain):
    inputs = noise(6).tolist()
    plain = directions([Filter(pole, zero, gain, normalise="none")], inputs)
    quirk = directions([Filter(pole, zero, gain, normalise="none", start="unscaled")], inputs)
    assert quirk[0].item() == pytest.approx(plain[0].item() * (1 - zero), rel=1e-14)
    assert torch.equal(quirk[1:], plain[1:])


@pytest.mark.parametrize("normalise", ["exact", "none", "autosgm", "memory", "running"])
def test_pole_zero_is_the_identity(normalise):
    inputs = noise(6).tolist()
    assert directions([Filter(0.0, normalise=normalise)], inputs).tolist() == inputs


@pytest.mark.parametrize("normalise", ["exact", "none"])
def test_zero_on_the_pole_is_the_identity(normalise):
    inputs = noise(6).tolist()
    close(directions([Filter(0.9, 0.9, normalise=normalise)], inputs), inputs)


@few
@given(st.integers(1, 8), st.integers(0, 3))
def test_running_is_the_arithmetic_mean_until_its_length(length, seed):
    inputs = noise(8, seed=seed)
    outputs = directions([Filter(1 - 1 / length, normalise="running")], inputs.tolist())
    close(outputs[:length], [inputs[:t].mean().item() for t in range(1, length + 1)])


def test_running_with_a_fractional_length():
    """For length 2.5, the coefficients are 1, 1/2, then 1/2.5."""
    outputs = directions([Filter(1 - 1 / 2.5, normalise="running")], [1.0, 2.0, 4.0])
    close(outputs, [1.0, 1.5, 0.6 * 1.5 + 0.4 * 4.0])


def test_running_and_debiased_averages_differ_between_the_limits():
    """Compare the weights of the newest sample for N = 10: 1/min(t, N) and (1 - beta)/(1 - beta^t)."""
    running = [directions([Filter(0.9, normalise="running")], [0.0] * (t - 1) + [1.0])[-1].item() for t in (1, 5, 10)]
    debiased = [directions([Filter(0.9)], [0.0] * (t - 1) + [1.0])[-1].item() for t in (1, 5, 10)]
    assert running == pytest.approx([1, 0.2, 0.1], abs=1e-12)
    assert debiased == pytest.approx([1, 0.244, 0.154], abs=5e-4)


@few
@given(st.floats(0.001, 0.999), st.floats(0, 1))
def test_first_start_is_torch_dampening(momentum, dampening):
    inputs = noise(8).tolist()
    p = torch.zeros(1, dtype=torch.float64)
    torch_sgd = torch.optim.SGD([p], lr=1.0, momentum=momentum, dampening=dampening)
    path = torch.stack([w[0] for w in stepped(torch_sgd, [p], [[tensor([g])] for g in inputs])])
    expected = -torch.diff(path.flatten(), prepend=tensor([0.0]))
    ours = directions([Filter(momentum, gain=1 - dampening, normalise="none", start="first")], inputs)
    torch.testing.assert_close(ours, expected, **CLOSE)


@pytest.mark.parametrize("zero", [0.0, "nesterov"])
def test_changing_the_pole_during_a_run_matches_torch(zero):
    """With cycled momentum, the state update uses the current value, as in torch's SGD."""
    poles, inputs = [0.9, 0.5, 0.95, 0.7, 0.85], noise(5).tolist()

    def stages(t):
        point = dp.momentum_forms.heavy_ball(poles[t - 1]) if zero == 0 else dp.momentum_forms.nesterov(poles[t - 1])
        return [Filter(*point, normalise="none")]

    p = torch.zeros(1, dtype=torch.float64)
    torch_sgd = torch.optim.SGD([p], lr=1.0, momentum=0.9, nesterov=zero != 0)
    before, expected = 0.0, []
    for pole, g in zip(poles, inputs, strict=True):
        torch_sgd.param_groups[0]["momentum"] = pole
        after = stepped(torch_sgd, [p], [[tensor([g])]])[0][0].item()
        expected.append(before - after)
        before = after
    close(directions(stages, inputs), expected)


def test_changing_a_debiased_pole_during_a_run_matches_torch():
    """Adam's correction uses 1 - beta^t of the current beta, not the product of past values."""
    betas, inputs = [0.9, 0.5, 0.95, 0.7, 0.85], noise(5).tolist()
    p = torch.zeros(1, dtype=torch.float64)
    # beta2 = 0 and a tiny eps make the denominator |g|, so torch's step shows its first moment.
    adam = torch.optim.Adam([p], lr=1.0, betas=(0.9, 0.0), eps=1e-300)
    before, expected = 0.0, []
    for beta, g in zip(betas, inputs, strict=True):
        adam.param_groups[0]["betas"] = (beta, 0.0)
        after = stepped(adam, [p], [[tensor([g])]])[0][0].item()
        expected.append((before - after) * abs(g))
        before = after
    close(directions(lambda t: [Filter(betas[t - 1])], inputs), expected)


def test_state_is_one_tensor_and_equals_torch_buffers():
    """The memory equals `momentum_buffer` of SGD (including Nesterov) and `exp_avg` of Adam."""
    gradients = [[g] for g in noise(5, 3)]
    ours, theirs = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    mine, other = dp.SGD([ours], momentum=0.9, nesterov=True), torch.optim.SGD([theirs], momentum=0.9, nesterov=True)
    stepped(mine, [ours], gradients)
    stepped(other, [theirs], gradients)
    assert set(mine.state[ours]) == {"step", "momentum_buffer"}
    torch.testing.assert_close(mine.state[ours]["momentum_buffer"], other.state[theirs]["momentum_buffer"], **CLOSE)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_any_shape(shape):
    outputs = directions([Filter(0.5)], [torch.full(shape, 2.0, dtype=torch.float64)] * 3)
    close(outputs, torch.full((3, *shape), 2.0).tolist())


def test_filter_modifies_only_the_direction():
    x = signals([Filter(0.9)], [2.0, 1.0])[1]
    assert (x.g.item(), x.w.item(), x.d, x.rate, x.shrink) == (1.0, 0.0, 1.0, 0.1, None)


def test_unit_gain_and_carry():
    """The DC gain is 1 if and only if gain = (1 - pole)/(1 - zero); carry is nu beta."""
    assert unit_gain(0.9, 0.0) == pytest.approx(0.1, rel=1e-15)
    assert unit_gain(0.9, 0.9 / 1.9) == pytest.approx(0.19, rel=1e-14)
    assert unit_gain(0.9, 1 - 0.2**0.5) == pytest.approx(0.2236, abs=5e-5)
    assert carry(*dp.momentum_forms.qhm(0.9, 0.3)[:2]) == pytest.approx(0.27, rel=1e-14)


@pytest.mark.parametrize("normalise", ["exact", "autosgm", "memory", "running"])
def test_gain_raises_if_determined_by_the_normalisation(normalise):
    with pytest.raises(ArgumentError, match=r"^Filter: gain must be None with normalise='\w+', got 1.0"):
        Filter(0.9, gain=1.0, normalise=normalise)


def test_running_with_a_zero_raises():
    with pytest.raises(ArgumentError, match=r"^Filter: zero must be 0 with normalise='running', got 0.5"):
        Filter(0.9, 0.5, normalise="running")


def test_zero_above_the_pole_warns_once():
    stage = Filter(0.5, 0.8)
    assert directions([stage], IMPULSE)[1].item() < 0
    with pytest.warns(UserWarning, match="zero 0.8 is above pole 0.5") as caught:
        dp.SGM([torch.zeros(1, requires_grad=True)], filter=stage)
    assert len(caught) == 1
    assert Filter(0.9, 0.5).warning() is None
