"""Stochastic rounding and split bfloat16 weights: exactness, absence of bias, and error bounds."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding_support import (
    ALL_NOISE,
    EVERY_BFLOAT16,
    LARGEST,
    Z,
    bounded,
    every_exponent,
    float32s,
    i32,
    indices,
    neighbors,
    same_bits,
)

from dashpot.engine.rounding import join, noise, seed_word, split, stochastic, stream

# --- stochastic rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 32767, 32768, 65535])
def test_stochastic_preserves_every_bfloat16(n):
    x = EVERY_BFLOAT16.to(torch.float32)
    assert same_bits(stochastic(x, i32(n)), EVERY_BFLOAT16)  # including signed zeros and nans


def test_stochastic_preserves_bfloat16_for_all_noise():
    x = EVERY_BFLOAT16.to(torch.float32)
    for shift in range(16):  # the noise of each element differs between rounds
        assert same_bits(stochastic(x, (ALL_NOISE * 40503 + shift * 4099) & 0xFFFF), EVERY_BFLOAT16)
    for value in (0.0, -0.0, 1.0, -LARGEST, LARGEST, math.inf, -math.inf, 2.0**-133, -(2.0**-126)):
        expected = torch.full((65536,), value, dtype=torch.bfloat16)
        assert same_bits(stochastic(torch.full((65536,), value), ALL_NOISE), expected)


@pytest.mark.parametrize("pattern", [0x7F800001, 0x7F80FFFF, 0x7FC00000, 0x7FFFFFFF, -1, -0x7FFFFF, -0x400000])
def test_stochastic_preserves_nan_of_any_payload(pattern):
    x = torch.full((65536,), pattern, dtype=torch.int32).view(torch.float32)
    assert x.isnan().all()
    assert stochastic(x, ALL_NOISE).isnan().all()


@pytest.mark.parametrize(
    "x", [1.001, -1.001, 0.1, 1.9999999, -3.14159, 1e-3, 6.1e4, 1e-38, 1e-40, -1.4e-45, 3.389e38, 2.0**-126 * 1.003]
)
def test_stochastic_mean_over_all_noise_is_exact(x):
    x = torch.tensor(x)
    rounded = stochastic(x.expand(65536), ALL_NOISE).double()
    # Every term is a multiple of x's ulp and the sum is below 2^53 ulps: float64 is exact.
    assert (rounded.sum() == 65536 * x.double()).item()


@settings(deadline=None, max_examples=100)
@given(x=bounded, n=st.integers(0, 65535))
def test_stochastic_returns_a_finite_neighbor(x, n):
    rounded = stochastic(torch.tensor(x), i32(n)).item()
    assert rounded in neighbors(x)
    assert math.isfinite(rounded)
    assert math.copysign(1, rounded) == math.copysign(1, x)


@settings(deadline=None, max_examples=100)
@given(x=float32s, n=st.integers(0, 65535))
def test_stochastic_is_odd(x, n):
    x = torch.tensor(x)
    assert same_bits(stochastic(-x, i32(n)), -stochastic(x, i32(n)))


def test_stochastic_above_largest_bfloat16_may_overflow():
    x = torch.tensor([0x7F7F4000, 0x7F7FFFFF], dtype=torch.int32).view(torch.float32)[:, None]
    rounded = stochastic(x, ALL_NOISE)
    assert rounded.isinf().sum(dim=1).tolist() == [0x4000, 0xFFFF]
    assert (rounded[~rounded.isinf()].double() == LARGEST).all()


def test_stochastic_with_noise_is_unbiased():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, generator=generator) * torch.logspace(-30, 30, 64)
    draws = 4096
    n = noise(indices(64 * draws), stream(seed_word(1), 0, 0, 0)).view(64, draws)
    error = stochastic(x[:, None].expand(64, draws), n).double().mean(dim=1) - x.double()
    below, above = torch.tensor([neighbors(v) for v in x.tolist()], dtype=torch.float64).T
    chance = (x.double() - below) / (above - below)
    z = error / ((above - below).abs() * (chance * (1 - chance) / draws).sqrt())
    assert z.abs().max() < Z
    assert abs((z**2).sum().item() - 64) < Z * math.sqrt(2 * 64)  # the variance is also correct


def test_stochastic_accumulates_small_steps_unlike_nearest():
    count, steps, lr = 4096, 400, 2.5e-3
    word, index = i32(seed_word(2)), indices(count)
    w = torch.ones(count, dtype=torch.bfloat16)
    nearest = w.clone()
    for step in range(steps):
        w = stochastic(w.float() + lr, noise(index, stream(word, step, 0, 0)))
        nearest = (nearest.float() + lr).to(torch.bfloat16)
    # A step changes w by one ulp u or not at all, with mean lr. Its variance is at most lr * u, with u <= 2^-6 below 4.
    deviation = math.sqrt(steps * lr * 2**-6 / count)
    float32_roundings = steps * 2**-23
    assert abs(w.double().mean().item() - 2.0) < Z * deviation + float32_roundings
    assert w.unique().numel() > 10  # the elements are independent
    assert (nearest == 1.0).all()


def test_bfloat16_average_needs_stochastic_rounding():
    count, steps, beta = 4096, 1500, 0.999
    word, index = i32(seed_word(6)), indices(count)
    exact = torch.zeros(count)
    held, nearest = exact.to(torch.bfloat16), exact.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        g = 0.75 + 0.1 * torch.randn(count, generator=generator)
        exact = beta * exact + (1 - beta) * g
        held = stochastic(beta * held.float() + (1 - beta) * g, noise(index, stream(word, step, 0, 1)))
        nearest = (beta * nearest.float() + (1 - beta) * g).to(torch.bfloat16)
    assert exact.max() < 1
    # One rounding has variance u^2 / 4 at most, u = 2^-8 below 1; the average has weights beta^(2 k) for the variances.
    deviation = 2**-9 / math.sqrt(1 - beta**2)
    error = held.double() - exact.double()
    assert abs(error.mean().item()) < Z * deviation / math.sqrt(count)
    assert error.abs().max() < (Z + 1) * deviation  # 4096 elements; the bound on the variance is loose
    assert (nearest.double() - exact.double()).mean() < -0.25  # rounding to nearest stalls far below the exact average


# --- split and join --------------------------------------------------------------------------------------------------


def error_bound(x):
    return torch.maximum(x.double().abs() * 2.0**-17, torch.tensor(2.0**-134, dtype=torch.float64))


def test_split_join_keeps_17_bits_at_every_exponent():
    x = every_exponent()
    high, low = split(x)
    assert same_bits(high, x.to(torch.bfloat16))
    back = join(high, low)
    finite = high.isfinite()
    assert ((back.double() - x.double()).abs() <= error_bound(x))[finite].all()
    assert (back.double() == high.double() + low.double())[finite].all()  # the sum is exact
    assert (low[~finite] == 0).all()
    assert same_bits(back[~finite], high[~finite].float())


def test_split_error_bound_is_attained():
    # 1 + 2^-9 + 2^-17: the remainder is halfway between two 8-bit numbers, and 2^-17 is lost.
    x = torch.tensor(1 + 2.0**-9 + 2.0**-17)
    assert (join(*split(x)).double() - x.double()).abs() == 2.0**-17
    assert (x.to(torch.bfloat16).double() - x.double()).abs() > 2.0**-9


@settings(deadline=None, max_examples=100)
@given(x=bounded)
def test_split_join_error_is_bounded(x):
    x = torch.tensor(x)
    assert (join(*split(x)).double() - x.double()).abs() <= error_bound(x)


def test_split_of_bfloat16_has_zero_low():
    x = EVERY_BFLOAT16.to(torch.float32)
    high, low = split(x)
    assert same_bits(high, EVERY_BFLOAT16)
    assert (low == 0).all()
    zero = x == 0
    assert same_bits(join(high, low)[~zero], x[~zero])  # including nan and infinity
    assert (join(high, low)[zero] == 0).all()


def test_split_after_join_preserves_value():
    # The pair may change: halfway between two values of `high`, the even one has the opposite `low`.
    x = every_exponent()
    value = join(*split(x[x.abs() <= LARGEST]))
    assert torch.equal(join(*split(value)), value)


def test_split_accumulates_small_steps():
    w = split(torch.ones(16))
    for _ in range(1000):
        w = split(join(*w) + 1e-3)
    # From 1 to 2, a step loses at most 2^-17 in the split and 2^-24 in the float32 sum; beyond 2, twice as much.
    assert (join(*w).double() - 2.0).abs().max() < 1000 * (2.0**-17 + 2.0**-24)


def test_split_accumulates_random_steps_near_float64_sum():
    generator = torch.Generator().manual_seed(3)
    exact = torch.ones(4096, dtype=torch.float64)
    w, nearest = split(torch.ones(4096)), torch.ones(4096, dtype=torch.bfloat16)
    for _ in range(1000):
        step = 1e-3 * torch.rand(4096, generator=generator)
        exact += step.double()
        w = split(join(*w) + step)
        nearest = (nearest.float() + step).to(torch.bfloat16)
    error = (join(*w).double() - exact).abs()
    # A rounding of the split is uniform in +-2^-17 at most and independent from step to step: sd 2^-17 sqrt(1000 / 3).
    assert error.max() < (Z + 1) * 2.0**-17 * math.sqrt(1000 / 3)
    assert (nearest == 1).all()
