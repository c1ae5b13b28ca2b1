"""Uniformity and independence of the hash and the noise for stochastic rounding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding_support import Z, i32, indices

from dashpot.engine.rounding import mix, noise, seed_word, stream
from dashpot.errors import ArgumentError

# --- hash ------------------------------------------------------------------------------------------------------------


def reference_mix(word, salt):
    """Compute the hash in Python integers, reduced modulo 2^32 after each operation."""
    x = (word + (salt + 1) * 0x9E3779B9) % 2**32
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        x = (x ^ (x >> shift)) * factor % 2**32
    x ^= x >> 14
    return (x + 2**31) % 2**32 - 2**31


@settings(deadline=None, max_examples=60)
@given(word=st.integers(-(2**31), 2**31 - 1), salt=st.integers(-(2**31), 2**31 - 1))
def test_mix_matches_reference_hash(word, salt):
    expected = reference_mix(word, salt)
    assert int(mix(i32(word), salt)) == expected
    assert int(mix(i32(word), i32(salt))) == expected
    assert mix(i32([word, word]), i32(salt)).tolist() == [expected, expected]


def test_mix_is_injective_in_salt():
    mixed = mix(i32(12345), indices(2**20))
    assert mixed.unique().numel() == 2**20


def test_stream_chains_mix_for_integers_and_tensors():
    word = seed_word(11)
    expected = mix(mix(mix(i32(word), 5), 3), 2)
    assert expected.shape == ()
    assert torch.equal(stream(word, 5, 3, 2), expected)
    assert torch.equal(stream(i32(word), i32(5), i32(3), 2), expected)
    assert not torch.equal(stream(word, 3, 5, 2), expected)  # the order is significant


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "0", None])
def test_seed_out_of_range_raises(seed):
    with pytest.raises(ArgumentError, match=r"seed_word: seed must be an integer in \[0, 9\.22337e\+18\), got"):
        seed_word(seed)


def test_seed_words_are_signed_and_uncorrelated():
    words = [seed_word(seed) for seed in (*range(1000), *(2**k for k in range(10, 63)), 2**63 - 1)]
    assert all(-(2**31) <= word < 2**31 for word in words)
    assert len(set(words)) == len(words)  # a collision of 1054 words among 2^32 has probability 1.3e-4
    flips = ((seed_word(seed) ^ seed_word(seed + 1)) % 2**32 for seed in range(1000))
    flipped = sum(bin(word).count("1") for word in flips)
    assert abs(flipped - 16 * 1000) < Z * math.sqrt(8 * 1000)  # each of 32 bits flips with probability 1/2


# --- noise -----------------------------------------------------------------------------------------------------------


def chi_square_z(values, bins):
    counts = torch.bincount(values.long(), minlength=bins).double()
    expected = values.numel() / bins
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - (bins - 1)) / math.sqrt(2 * (bins - 1))  # approximately normal for this many degrees of freedom


def correlation_z(a, b):
    """Return a correlation standardized with the exact mean and variance of uniform integers in [0, 65535]."""
    variance = (65536**2 - 1) / 12
    return ((a.double() - 32767.5) * (b.double() - 32767.5)).mean().item() / variance * math.sqrt(a.numel())


def bit_agreement_z(a, b):
    """Return the largest of the 256 correlations between bits of `a` and of `b`."""
    planes = [((x[:, None] >> indices(16)) & 1).float() * 2 - 1 for x in (a, b)]
    return ((planes[0].T @ planes[1]).abs().max() / math.sqrt(a.numel())).item()


N = 2**19


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


BASE = (4, 2, 1)  # step, tensor, slot
OTHERS = {
    "next step": (5, 2, 1),
    "distant step": (100_004, 2, 1),
    "next tensor": (4, 3, 1),
    "next slot": (4, 2, 2),
    "numbers swapped": (2, 4, 1),
}


@pytest.mark.parametrize("seed", [0, *slow(1, 2**62 + 1)])
def test_noise_is_uniform(seed):
    values = noise(indices(2**22), stream(seed_word(seed), *BASE))
    assert values.dtype == torch.int32
    assert values.min() == 0
    assert values.max() == 65535
    assert abs(chi_square_z(values, 65536)) < Z
    mean_z = (values.double().mean().item() - 32767.5) / math.sqrt((65536**2 - 1) / 12 / values.numel())
    assert abs(mean_z) < Z


@pytest.mark.parametrize("lag", [1, 128, *slow(2, 16, 64, 256, 384, 512, 2**16)])  # 128 to 384 share a hash
def test_noise_of_adjacent_elements_is_independent(lag):
    values = noise(indices(N + lag), stream(seed_word(3), *BASE))
    assert_independent(values[:-lag], values[lag:])


@pytest.mark.parametrize("lag", [0, *slow(1, 128, 256, 384, 512)])
def test_noise_halves_are_independent_across_lags(lag):
    word = stream(seed_word(3), *BASE)
    assert_independent(noise(indices(N), word, 0), noise(indices(N) + lag, word, 1))


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(numbers, id=name, marks=() if name in ("next step", "numbers swapped") else pytest.mark.slow)
        for name, numbers in OTHERS.items()
    ],
)
def test_noise_of_adjacent_streams_is_independent(numbers):
    a, b = (noise(indices(N), stream(seed_word(3), *n)) for n in (BASE, numbers))
    assert_independent(a, b)


@pytest.mark.parametrize("change", [1, *slow(2**16, -(2**31))])
def test_streams_with_overlapping_counters_are_independent(change):
    word = stream(seed_word(3), *BASE)
    a, b = noise(indices(N), word), noise(indices(N), word ^ change)
    assert_independent(a, b)
    if change < N:  # the counters are equal but in a different order; without the second word the mean would be 1.0
        assert (a == noise(indices(N) ^ change, word ^ change)).float().mean() < 1e-3


def test_noise_of_adjacent_seeds_is_independent():
    assert_independent(*(noise(indices(N), stream(seed_word(seed), *BASE)) for seed in (8, 9)))


def test_noise_of_one_element_over_steps_is_uniform_and_uncorrelated():
    steps = indices(2**18)
    words = mix(mix(mix(i32(seed_word(5)), steps), 2), 1)
    values = noise(torch.full_like(steps, 77), words)
    assert abs(chi_square_z(values >> 8, 256)) < Z
    assert abs(correlation_z(values[:-1], values[1:])) < Z
    assert bit_agreement_z(values[:-1], values[1:]) < Z


def assert_independent(a, b):
    assert abs(correlation_z(a, b)) < Z
    assert bit_agreement_z(a, b) < Z
    assert abs(chi_square_z((a >> 8 << 8) | (b >> 8), 65536)) < Z  # joint distribution of the upper bytes
