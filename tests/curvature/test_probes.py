"""Probes: distribution, independence, and dependence on their key only.

Sampling limits: every seed is fixed, so a test either always passes or always fails. A normal number exceeds Z = 6
standard deviations with probability 2e-9, and no test makes more than 500 comparisons, so truly random numbers would
fail a test with probability below 1e-6. Tests with more comparisons use Z_MANY.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_values import others_slow

from dashpot.curvature.probes import draw, draw_probes, scaled_probes
from dashpot.engine.rounding import bits, mix, noise, seed_word, stream

Z = 6.0
Z_MANY = 7.5  # probability of exceedance 6e-14; for 10^6 comparisons, still below 1e-6
N = 2**20
BOTH = pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
PROBES = 0x50524F42  # first key of the probe streams
SMALL = 0.6744897501960817  # the absolute value of a standard normal number is smaller with probability 1/2


def probe(distribution, *shape, seed=0, number=0, ordinal=0, dtype: torch.dtype = torch.float64):
    return draw_probes(distribution, seed, number, [torch.empty(shape, dtype=dtype)], [ordinal])[0]


def moment_z(values, expected, variance):
    """Return the z-score of the mean of `values`."""
    return (values.double().mean().item() - expected) / math.sqrt(variance / values.numel())


def signs(values):
    """Return the probe as columns of +1 and -1: its signs and, for Gaussian probes, whether the entries are large."""
    if (values.abs() == 1).all():
        return [values.double()]
    return [values.double().sign(), (values.double().abs() - SMALL).sign()]


def assert_unrelated(a, b):
    """Check the independence of all sign columns of `a` and `b`."""
    assert abs(moment_z(a.double() * b.double(), 0, 1)) < Z  # both have variance 1, and so does the product
    for x in signs(a):
        for y in signs(b):
            assert abs(moment_z(x * y, 0, 1)) < Z


# --- the distributions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rademacher_entries_are_plus_or_minus_one_with_equal_chance(seed, dtype):
    v = probe("rademacher", N, seed=seed, dtype=dtype)
    assert v.dtype == dtype
    assert v.unique().tolist() == [-1, 1]
    assert abs(moment_z(v, 0, 1)) < Z


def normal_cdf(x):
    return torch.special.ndtr(x.double())


@pytest.mark.parametrize("seed", [0, 1, 2**62 + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_entries_are_standard_normal(seed, dtype):
    v = probe("gaussian", N, seed=seed, dtype=dtype).double()
    assert v.isfinite().all()
    # The variances of x, x^2, x^3, x^4 are 1, 2, 15, 96 (moments 1, 3, 15, 105 of even order).
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(moment_z(v**power, expected, variance)) < Z
    for limit in (2.0, 3.0, 4.0):  # both tails; 33 of 2^20 numbers are beyond 4
        chance = 0.5 * math.erfc(limit / math.sqrt(2))
        for tail in (v > limit, v < -limit):
            assert abs(moment_z(tail, chance, chance * (1 - chance))) < Z
    # The radius comes from 31 bits and cannot exceed sqrt(2 log(2^32)): the truncated tail has probability 3e-11.
    assert 4.5 < v.abs().max() < math.sqrt(2 * math.log(2**32)) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_entries_pass_kolmogorov_smirnov(dtype):
    p = normal_cdf(probe("gaussian", N, seed=3, dtype=dtype)).sort().values
    steps = torch.arange(N + 1, dtype=torch.float64) / N
    distance = torch.maximum((steps[1:] - p).max(), (p - steps[:-1]).max()).item()
    # The probability of a larger distance is 2 exp(-2 x^2) (Kolmogorov), 1e-6 for this x.
    assert distance * math.sqrt(N) < math.sqrt(math.log(2e6) / 2)


def test_gaussian_entries_fill_equally_likely_bins_alone_and_in_pairs():
    places = (normal_cdf(probe("gaussian", N, seed=4)) * 32).long().clamp_max(31)
    pairs = places[0::2] * 32 + places[1::2]
    for found, bins in ((places, 32), (pairs, 1024)):
        expected = len(found) / bins
        statistic = ((torch.bincount(found, minlength=bins).double() - expected) ** 2 / expected).sum()
        # Chi-square with bins - 1 degrees of freedom, whose cube root is nearly normal (Wilson and Hilferty).
        spread = 2 / (9 * (bins - 1))
        assert abs(((statistic.item() / (bins - 1)) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)) < Z


# --- independence -----------------------------------------------------------------------------------------------------


@pytest.mark.diagonal
@BOTH
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 64, 1024, 2**16])
def test_neighbouring_elements_are_independent(distribution, lag):
    v = probe(distribution, N + lag, seed=5)
    assert_unrelated(v[:-lag], v[lag:])
    # Pairwise products, which determine the error of an estimate, are also independent at several distances.
    for coins in signs(v):
        pair = coins[:-lag] * coins[lag:]
        for distance in (1, 2, lag, lag + 1, 4096):
            assert abs(moment_z(pair[:-distance] * pair[distance:], 0, 1)) < Z


OTHERS = {
    "next product": {"number": 8},
    "product far on": {"number": 1_000_007},
    "next tensor": {"ordinal": 4},
    "tensor far on": {"ordinal": 1003},
    "numbers swapped": {"number": 3, "ordinal": 7},
    "next seed": {"seed": 12},
    "seed far on": {"seed": 2**40 + 11},
}


@pytest.mark.diagonal
@BOTH
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(other, id=name, marks=pytest.mark.slow if "far on" in name else ())
        for name, other in OTHERS.items()
    ],
)
def test_tensors_products_and_seeds_are_independent(distribution, other):
    base: dict[str, Any] = {"seed": 11, "number": 7, "ordinal": 3}
    a, b = (probe(distribution, N, **numbers) for numbers in (base, base | other))
    assert_unrelated(a, b)
    assert_unrelated(a[1:], b[:-1])
    for x, y in zip(signs(a), signs(b), strict=True):
        assert abs(moment_z(x[:-1] * x[1:] * y[:-1] * y[1:], 0, 1)) < Z


def many(distribution, over, count):
    """Return one row per product or seed (`count` rows), with five elements of each of four tensors.

    All rows are drawn in one batch; the first rows are checked against `draw_probes`.
    """
    numbers = torch.arange(count, dtype=torch.int32)
    seeds = torch.tensor([seed_word(seed) for seed in (range(count) if over == "seeds" else [5])], dtype=torch.int32)
    p, ordinals = torch.empty(5, dtype=torch.float64), [0, 1, 2, 9]
    base = stream(seeds, PROBES, numbers if over == "products" else 5)
    words = [mix(base, ordinal) for ordinal in ordinals]
    values = torch.cat([draw(distribution, word[:, None], p) for word in words], dim=1)
    for row in range(4):
        seed, number = (5, row) if over == "products" else (row, 5)
        assert torch.equal(values[row], torch.cat(draw_probes(distribution, seed, number, [p] * 4, ordinals)))
    return values


@pytest.mark.diagonal
@BOTH
@pytest.mark.parametrize("over", ["products", "seeds"])
def test_few_elements_over_many_products_or_seeds_are_jointly_independent(distribution, over):
    count = 8192
    coins = torch.cat(signs(many(distribution, over, count)), dim=1)
    width = coins.shape[1]
    assert coins.mean(dim=0).abs().max() * math.sqrt(count) < Z
    i, j = torch.triu_indices(width, width, offset=1)
    pairs = coins[:, i] * coins[:, j]  # products v_i v_j over elements and tensors
    assert pairs.mean(dim=0).abs().max() * math.sqrt(count) < Z_MANY
    # Correlations between the pairs (18 000 for 20 coins, 300 000 for 40 coins) would change the variance of an
    # estimate.
    gram = pairs.T @ pairs / count
    gram.fill_diagonal_(0)
    assert gram.abs().max() * math.sqrt(count) < Z_MANY
    for lag in (1, 2, 16):  # rows are independent of later rows
        follow = coins[:-lag].T @ coins[lag:] / math.sqrt(count - lag)
        assert follow.abs().max() < Z_MANY


@BOTH
def test_real_and_imaginary_parts_are_independent_entries(distribution):
    z = probe(distribution, N, dtype=torch.complex128)
    assert z.dtype == torch.complex128
    assert_unrelated(z.real, z.imag)
    assert_unrelated(z.real[1:], z.imag[:-1])
    for part in (z.real, z.imag):
        assert abs(moment_z(part, 0, 1)) < Z
        assert abs(moment_z(part**2, 1, 2)) < Z
    assert torch.equal(torch.view_as_real(z), probe(distribution, N, 2))


@pytest.mark.parametrize("step", others_slow([7, 0, 1], 7))
def test_probes_are_independent_of_stochastic_rounding(step):
    # Seed and tensor are the same, and the product number equals the step: only the purpose of the stream differs.
    seed, ordinal, count = 13, 2, 2**18
    v = probe("rademacher", count, seed=seed, number=step, ordinal=ordinal)
    sizes = probe("gaussian", count, seed=seed, number=step, ordinal=ordinal)
    index, word = torch.arange(count, dtype=torch.int32), stream(seed_word(seed), step)
    observation = 0x0B5E  # separate streams for rounding after a product
    for slot in (-1, 0, 1):
        for stem in (stream(word, ordinal, slot), stream(word, ordinal, observation, slot)):
            for half in (0, 1):
                uniform = noise(index, stem, half)
                for place in range(16):
                    coin = ((uniform >> place) & 1).double() * 2 - 1
                    assert abs(moment_z(coin * v, 0, 1)) < Z
                scaled = (uniform.double() - 32767.5) / math.sqrt((65536**2 - 1) / 12)
                assert abs(moment_z(scaled * sizes, 0, 1)) < Z


# --- a pure function --------------------------------------------------------------------------------------------------


@BOTH
def test_probes_do_not_depend_on_memory_layout(distribution):
    plain = torch.empty(2, 3, 4, 5)
    layouts = (
        plain.to(memory_format=torch.channels_last),
        torch.empty(5, 4, 3, 2).permute(3, 2, 1, 0),
        torch.empty(4, 6, 4, 5)[::2, ::2],
        torch.empty(1).expand(2, 3, 4, 5),
    )
    (expected,) = draw_probes(distribution, 1, 2, [plain], [3])
    for p in layouts:
        (got,) = draw_probes(distribution, 1, 2, [p], [3])
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rademacher_probes_are_equal_in_all_dtypes(dtype):
    v = probe("rademacher", 999, dtype=dtype)
    assert v.dtype == dtype
    assert torch.equal(v.double(), probe("rademacher", 999))


def test_gaussian_probes_are_equal_in_all_dtypes_up_to_rounding():
    count = N // 4
    exact, single = probe("gaussian", count), probe("gaussian", count, dtype=torch.float32)
    error = (single.double() - exact).abs()
    # r = sqrt(-2 log u): u near 1 is rounded by 2^-25, so the error of r^2 is at most 2^-24, and that of r is at most
    # 2^-12 where r itself is that small; everywhere else r is accurate to a few units in the last place.
    assert error.max() < 2**-12
    assert error.quantile(0.999) < 2e-5
    for dtype, rounding in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):  # the unit roundoffs
        half = probe("gaussian", count, dtype=dtype)
        assert half.dtype == dtype
        assert ((half.double() - single.double()).abs() <= rounding * single.double().abs() + 2**-25).all()


@pytest.mark.parametrize(
    ("single", "double"), [(torch.complex64, torch.complex128), (torch.float32, torch.float64)], ids=str
)
def test_pairs_of_dtypes_agree_for_rademacher(single, double):
    assert torch.equal(probe("rademacher", 50, dtype=single).to(double), probe("rademacher", 50, dtype=double))


@BOTH
def test_torch_rng_state_is_not_used(distribution):
    params = [torch.empty(3, 4), torch.empty(5, dtype=torch.complex64)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw_probes(distribution, 0, 0, params, [0, 1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = draw_probes(distribution, 0, 0, params, [0, 1])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@BOTH
def test_probe_does_not_depend_on_other_tensors(distribution):
    params = [torch.empty(n) for n in (3, 4, 5)]
    together = draw_probes(distribution, 0, 4, params, [0, 1, 2])
    for ordinal in (2, 0):
        (alone,) = draw_probes(distribution, 0, 4, [params[ordinal]], [ordinal])
        assert torch.equal(alone, together[ordinal])


def test_probe_has_no_graph_and_does_not_modify_its_parameter():
    p = torch.ones(3, requires_grad=True)
    (v,) = draw_probes("gaussian", 0, 0, [p], [0])
    assert not v.requires_grad
    assert torch.equal(p.detach(), torch.ones(3))


def test_rademacher_is_the_lowest_bit_of_the_stream():
    word = stream(seed_word(3), 1)
    coins = draw("rademacher", word, torch.empty(64, dtype=torch.float64))
    lowest = bits(torch.arange(64, dtype=torch.int32), word) & 1
    assert torch.equal(coins, 1.0 - 2 * lowest.double())


shapes = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)
kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128])


@settings(deadline=None, max_examples=40)
@given(
    distribution=st.sampled_from(["rademacher", "gaussian"]),
    shape=shapes,
    dtype=kinds,
    seed=st.integers(0, 2**63 - 1),
    number=st.integers(0, 2**31 - 1),
    ordinal=st.integers(0, 2**20),
)
def test_elements_depend_only_on_their_index(distribution, shape, dtype, seed, number, ordinal):
    v = probe(distribution, *shape, seed=seed, number=number, ordinal=ordinal, dtype=dtype)
    assert (v.shape, v.dtype) == (torch.Size(shape), dtype)
    real = torch.view_as_real(v) if dtype.is_complex else v
    assert real.isfinite().all()
    if distribution == "rademacher":
        assert (real.abs() == 1).all()
    flat = probe(distribution, v.numel() + 3, seed=seed, number=number, ordinal=ordinal, dtype=dtype)
    assert torch.equal(v.flatten(), flat[: v.numel()])  # a row does not depend on later rows


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_batched_draws_equal_single_draws(distribution):
    """Draw batches of odd sizes and mixed dtypes, with one tensor that is too large to be batched."""
    shapes = ((3,), (5, 1), (), (0, 2), (7,), (300, 300), (2, 3), (3, 3))
    kinds = (torch.float32, torch.float64, torch.complex64, torch.float32, torch.bfloat16, torch.float32,
             torch.complex128, torch.float64)  # fmt: skip
    params = [torch.zeros(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True)]
    ordinals = [4, 1, 0, 9, 7, 2, 3, 11]
    together = draw_probes(distribution, 3, 5, params, ordinals)
    alone = [draw_probes(distribution, 3, 5, [p], [ordinal])[0] for p, ordinal in zip(params, ordinals, strict=True)]
    for p, one, other in zip(params, together, alone, strict=True):
        assert (one.dtype, one.shape) == (p.dtype, p.shape)
        # Vectorised logarithms and cosines may round an element differently at a different position in a tensor.
        torch.testing.assert_close(one, other, rtol=1e-5 if distribution == "gaussian" else 0, atol=1e-5)


def test_half_precision_probes_do_not_underflow():
    v = torch.tensor([1.0, -1.0, 0.37], dtype=torch.float16)
    (small,), rest = scaled_probes([v], 2.0**26)
    assert rest == 2.0**16
    torch.testing.assert_close(small * 1024, v, rtol=0, atol=0)
    (small,), rest = scaled_probes([v.float()], 2.0**26)
    assert rest == 1.0
