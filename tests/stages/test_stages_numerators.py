"""AutoSGM's numerators and `HuberClip` against elementwise loops over Python floats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages_support import few, noise, signals, tensor

import dashpot as dp
from dashpot import Filter, HuberClip, HuberParcor, MomentRate, Parcor, SecondMoment
from dashpot.errors import ArgumentError

BETAS = st.floats(0, 0.9999)
RATES = st.floats(1e-4, 2)
STEPS, SIZE = 8, 4
GRADIENTS, WEIGHTS = noise(STEPS, SIZE, seed=1), noise(STEPS, SIZE, seed=2)
CLOSE = 1e-12  # relative: sums of eight terms of size 1 in float64


def rates(stage, lr, before=()):
    x = signals([*before, stage], GRADIENTS, weights=WEIGHTS, lr=lr)
    return [float(item.rate) for item in x]


def smoothed(elements, smoothing):
    """Return q_t = smoothing q_{t-1} + (1 - smoothing) mean_t, q_0 = 0; `elements` yields the values of one step."""
    q, out = 0.0, []
    for values in elements:
        q = smoothing * q + (1 - smoothing) * sum(values) / len(values)
        out.append(q)
    return out


@few
@given(BETAS, RATES, st.floats(0, 0.9))
def test_parcor(beta, lr, smoothing):
    """a = min(|A[lr w v]|, lr (1 + E[w^2])), where A is the sum with gain 1/(1 - beta)."""
    power, total, steps = [0.0] * SIZE, [0.0] * SIZE, []
    for w, v in zip(WEIGHTS.tolist(), GRADIENTS.tolist(), strict=True):
        power = [beta * e + (1 - beta) * x * x for e, x in zip(power, w, strict=True)]
        total = [beta * a + lr * x * y for a, x, y in zip(total, w, v, strict=True)]
        steps.append([min(abs(a), lr * (1 + e)) for a, e in zip(total, power, strict=True)])
    assert rates(Parcor(beta, smoothing), lr) == pytest.approx(smoothed(steps, smoothing), rel=CLOSE)


@few
@given(BETAS, BETAS, st.floats(0.1, 10), RATES, st.floats(0, 0.9))
def test_huber_parcor(beta, beta_size, cap, lr, smoothing):
    """p = w v is clipped at cap E[|p|], divided by C = 1 + E[w^2], summed, and limited by lr C."""
    power, size, total, steps = [0.0] * SIZE, [0.0] * SIZE, [0.0] * SIZE, []
    for w, v in zip(WEIGHTS.tolist(), GRADIENTS.tolist(), strict=True):
        products = [x * y for x, y in zip(w, v, strict=True)]
        power = [beta * e + (1 - beta) * x * x for e, x in zip(power, w, strict=True)]
        size = [beta_size * m + (1 - beta_size) * abs(p) for m, p in zip(size, products, strict=True)]
        cut = [math.copysign(min(abs(p), cap * m), p) for p, m in zip(products, size, strict=True)]
        total = [beta * a + lr * p / (1 + e) for a, p, e in zip(total, cut, power, strict=True)]
        steps.append([min(abs(a), lr * (1 + e)) for a, e in zip(total, power, strict=True)])
    got = rates(HuberParcor(beta, beta_size, cap, smoothing), lr)
    assert got == pytest.approx(smoothed(steps, smoothing), rel=CLOSE)


@few
@given(BETAS, RATES, st.floats(0, 0.9), st.floats(0, 0.999))
def test_moment_rate(beta, lr, smoothing, beta2):
    """a = min(E[lr u^2], lr), where u is the raw gradient over the denominator, independent of the filter."""
    moment, square, steps = [0.0] * SIZE, [0.0] * SIZE, []
    for t, g in enumerate(GRADIENTS.tolist(), start=1):
        square = [beta2 * s + (1 - beta2) * x * x for s, x in zip(square, g, strict=True)]
        u = [x / (math.sqrt(s / (1 - beta2**t)) + 1e-8) for x, s in zip(g, square, strict=True)]
        moment = [beta * m + (1 - beta) * lr * x * x for m, x in zip(moment, u, strict=True)]
        steps.append([min(m, lr) for m in moment])
    # u^2 contains a debiased average as divisor: 1 - 0.999 loses three of fifteen digits.
    got = rates(MomentRate(beta, smoothing), lr, before=[Filter(0.9), SecondMoment(beta2)])
    assert got == pytest.approx(smoothed(steps, smoothing), rel=1e-10)


@few
@given(BETAS, st.floats(0.1, 8), st.floats(0, 1e-2))
def test_huber_clip(beta, cap, eps):
    """The output is v min(dev, cap sd)/dev with dev = |v - mu| + eps, mu = E[|v|], sd = sqrt(E[dev^2]) + eps."""
    centre, spread, expected = 0.0, 0.0, []
    for v in GRADIENTS.tolist():
        centre = beta * centre + (1 - beta) * math.sqrt(sum(x * x for x in v))
        deviation = math.sqrt(sum((x - centre) ** 2 for x in v)) + eps
        spread = beta * spread + (1 - beta) * deviation**2
        factor = min(deviation, cap * (math.sqrt(spread) + eps)) / deviation
        expected.append([x * factor for x in v])
    out = torch.stack([x.v for x in signals([HuberClip(beta, cap, eps)], GRADIENTS)])
    torch.testing.assert_close(out, tensor(expected), rtol=CLOSE, atol=1e-15)


# ---- effects of averages that start from zero ------------------------------------------------------------------------


def test_huber_clip_first_step_is_small():
    """Since sd_1 = sqrt(1 - beta) dev, only 4 sqrt(1e-4) = 0.04 of the first direction passes for beta = 0.9999."""
    first = signals([HuberClip(eps=0.0)], GRADIENTS[:1])[0].v
    torch.testing.assert_close(first, 0.04 * GRADIENTS[0], rtol=1e-9, atol=0)


def test_huber_clip_factor_reaches_one_after_645_steps():
    """With dev = 1 always, 4 sqrt(1 - 0.9999^t) reaches 1 between t = 645 and 646."""
    beta, centre, inputs = 0.9999, 0.0, []
    for _ in range(650):
        x = (1 - beta * centre) / (2 - beta)  # solves |-x - mu_t| = 1 with mu_t = beta mu_{t-1} + (1 - beta) x
        centre = beta * centre + (1 - beta) * x
        inputs.append([-x])
    out = signals([HuberClip(beta, eps=0.0)], inputs)
    factors = [(x.v / x.g).item() for x in out]
    assert factors[:645] == pytest.approx([4 * math.sqrt(1 - beta**t) for t in range(1, 646)], rel=1e-9)
    assert factors[644] < 1
    assert factors[645:] == [1.0] * 5


def test_moment_rate_starts_with_a_warm_up():
    """The first rate is 0.9 (1 - beta) lr mean(u^2), where the mean is 1 for the debiased u = sign(g)."""
    first = rates(MomentRate(0.9999), 0.5, before=[SecondMoment(eps=0.0)])[0]
    assert first == pytest.approx(0.9 * 1e-4 * 0.5, rel=1e-10)


def test_huber_parcor_clips_in_the_first_step():
    """Since M_1 = (1 - beta)|p|, the cap starts at 4 (1 - 0.999) = 0.004 times |p|."""
    once = signals([HuberParcor(beta=0.0, smoothing=0.0)], tensor([[2.0]]), weights=tensor([[1.5]]), lr=0.1)[0]
    # beta = 0: C = 1 + w^2, the sum is one term; 0.004 p/C lies far below the limit C.
    assert float(once.rate) == pytest.approx(0.1 * 0.004 * 3.0 / (1 + 1.5**2), rel=1e-12)


def test_parcor_reaches_its_bound_for_a_long_memory():
    """Once |A| exceeds the limit, the rate is lr (1 + mean E[w^2]), which is larger than lr."""
    g, w = torch.full((40, 3), 1.0, dtype=torch.float64), torch.full((40, 3), 2.0, dtype=torch.float64)
    got = float(signals([Parcor(0.99)], g, weights=w, lr=0.1)[-1].rate)
    power = 4 * (1 - 0.99**40)
    layer = 0.1 * (1 + power)  # q lags by one step of slow growth
    assert got == pytest.approx(layer, rel=5e-3)
    assert got > 0.1


# ---- shared behaviour ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Parcor(), HuberParcor(), MomentRate()])
def test_numerator_returns_a_scalar_and_keeps_the_direction(stage):
    x = signals([stage], GRADIENTS, weights=WEIGHTS)
    assert all(item.rate.shape == () for item in x)
    assert torch.equal(torch.stack([item.v for item in x]), GRADIENTS)


@pytest.mark.parametrize("stage", [Parcor(), HuberParcor(), MomentRate()])
def test_zero_lr_returns_a_zero_rate(stage):
    assert rates(stage, 0.0) == [0.0] * STEPS


def test_zero_gradients_do_not_produce_nan():
    zero = torch.zeros(3, 2, dtype=torch.float64)
    for numerator in (Parcor(), HuberParcor(), MomentRate()):
        x = signals([SecondMoment(eps=0.0), numerator], zero)
        assert all(torch.isfinite(torch.as_tensor(item.rate)) for item in x)
    assert torch.equal(signals([HuberClip()], zero)[-1].v, zero[0])


def test_zero_directions_are_clipped_to_zero_without_eps():
    """If mu = 0 and dev = 0, the factor is 1, not 0/0."""
    zero = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(signals([HuberClip(eps=0.0)], zero)[-1].v, zero[0])


def test_state_per_weight():
    """Parcor has two slots per weight, HuberParcor three, MomentRate one, and HuberClip none."""
    stages = (Parcor(), HuberParcor(), MomentRate(), HuberClip())
    counts = [sum(slot.shape == "elementwise" for slot in stage.slots) for stage in stages]
    assert counts == [2, 3, 1, 0]
    assert [len(stage.slots) - count for stage, count in zip(stages, counts, strict=True)] == [1, 1, 1, 2]


def test_schedule_scales_the_rate_but_not_its_state():
    """F(t) affects the update only: factors 0.5 and 1 lead to the same state."""
    halves = [dp.schedules.Constant(0.5), None]
    weights, states = [], []
    for schedule in halves:
        w = torch.ones(2, dtype=torch.float64, requires_grad=True)
        opt = dp.SGM([w], lr=0.1, rate=[SecondMoment(), Parcor()], schedule=schedule)
        w.grad = torch.full_like(w, 0.3)
        opt.step()
        weights.append(1 - w.detach())
        states.append(opt.state[w]["correlation"])
    torch.testing.assert_close(weights[0] * 2, weights[1], rtol=1e-13, atol=0)
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Parcor(1.0), r"^Parcor: beta must be a number in \[0, 1\), got 1.0"),
        (lambda: HuberParcor(cap=0.0), r"^HuberParcor: cap must be a number in \(0, inf\), got 0.0"),
        (lambda: MomentRate(smoothing=1.0), r"^MomentRate: smoothing must be a number in \[0, 1\), got 1.0"),
        (lambda: HuberClip(cap=-1), r"^HuberClip: cap must be a number in \(0, inf\), got -1"),
        (lambda: HuberClip(eps=-1e-9), r"^HuberClip: eps must be a number in \[0, inf\), got -1e-09"),
    ],
)
def test_settings_out_of_range_raise(build, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        build()
