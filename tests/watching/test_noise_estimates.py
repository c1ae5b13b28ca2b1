"""Estimates of the noise scale: unbiased sums, equivalent forms, coverage of the interval, and undefined results."""

import math

import numpy as np
import pytest

from dashpot.errors import ArgumentError
from dashpot.watching import NoiseSample, noise_scale

SQUARE, TRACE = 3.0, 24.0


def draw(rng, sizes, dimension=6):
    """Return mean gradients of pieces, for |G|^2 = 3 and a covariance of trace 24 with unequal eigenvalues."""
    eigenvalues = np.arange(1.0, dimension + 1)
    eigenvalues *= TRACE / eigenvalues.sum()
    mean = np.full(dimension, math.sqrt(SQUARE / dimension))
    noise = rng.standard_normal((len(sizes), dimension)) * np.sqrt(eigenvalues)
    return mean + noise / np.sqrt(np.asarray(sizes))[:, None]


def samples(seed, count, sizes=(8, 8)):
    rng = np.random.default_rng(seed)
    return [NoiseSample.of_pieces(draw(rng, sizes), sizes) for _ in range(count)]


@pytest.mark.parametrize("sizes", [(4, 4), (2, 4, 10), (3, 3, 3, 3)])
def test_square_and_trace_of_pieces_are_unbiased(sizes):
    found = np.array(samples(0, 1500, sizes))
    signal = found[:, 0] - found[:, 1] / found[:, 2]
    for values, expected in ((signal, SQUARE), (found[:, 1], TRACE)):
        # Four standard errors: a false failure of one in 16 000, for the fixed seed none.
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


def test_two_sizes_are_unbiased_for_a_part_of_the_batch():
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        small, rest = draw(rng, (4, 12))
        large = (4 * small + 12 * rest) / 16
        found.append(NoiseSample.of_two_sizes(4, small @ small, 16, large @ large))
    values = np.array(found)
    for column, expected in ((values[:, 0] - values[:, 1] / 16, SQUARE), (values[:, 1], TRACE)):
        assert abs(column.mean() - expected) < 4 * column.std() / math.sqrt(len(column))


def test_sums_of_equal_pieces_equal_the_form_with_differences():
    pieces = draw(np.random.default_rng(0), (5, 5, 5))
    parts = pieces / 3
    total = parts.sum(0)
    found = NoiseSample.of_sums((parts**2).sum(), total @ total, 3, 15.0)
    np.testing.assert_allclose(found, NoiseSample.of_pieces(pieces, (5, 5, 5)), rtol=1e-13)  # float64 arithmetic


def test_scale_is_the_ratio_of_means():
    rows = samples(1, 10)
    square, trace = (np.mean([row[i] for row in rows]) for i in (0, 1))
    found = noise_scale(rows)
    assert found.scale == pytest.approx(trace / (square - trace / 16), rel=1e-12)  # float64 arithmetic
    assert found.low < found.scale < found.high
    assert (found.samples, found.batch, found.reason) == (10, pytest.approx(16), None)


def test_memory_forgets_old_measurements():
    old = [row._replace(trace=100 * row.trace) for row in samples(2, 30)]
    found = noise_scale([*old, *samples(3, 60)], memory=4)
    assert found.low < TRACE / SQUARE < found.high
    assert found.effective == pytest.approx((1 + math.exp(-0.25)) / (1 - math.exp(-0.25)), rel=1e-6)  # infinite sums


def test_interval_covers_in_small_simulation():
    covered = 0
    for seed in range(200):
        found = noise_scale(samples(seed, 10))
        covered += (found.low or math.inf) <= TRACE / SQUARE <= (found.high or math.inf)
    # 95 % of 200 is 190 with a standard deviation of 3.1.
    assert 180 <= covered <= 199


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (samples(0, 4), "4 of the required 5 measurements exist"),
        ([NoiseSample(math.nan, 1.0, 8.0)] * 5, "not finite"),
        ([NoiseSample(1.0, 16.0, 8.0)] * 5, "the noise hides the gradient"),
        ([NoiseSample(1.0, 0.0, 8.0)] * 5, "trace of the covariance is not positive"),
    ],
)
def test_undetermined_scale_is_none_with_reason(rows, reason):
    found = noise_scale(rows)
    assert found.scale is None
    assert reason in found.reason
    assert reason in str(found)


def test_scale_far_above_the_batch_has_a_lower_end_only():
    rng = np.random.default_rng(0)
    rows = [NoiseSample.of_pieces(rng.standard_normal((2, 20)) + 0.01, (4, 4)) for _ in range(10)]
    found = noise_scale(rows)
    assert found.high is None
    assert 0 < found.low < 4 / 1e-4  # tr/|G|^2 of the true covariance
    assert found.reason is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoiseSample.of_pieces([[1.0]], [4]), "at least two rows"),
        (lambda: NoiseSample.of_pieces([[1.0], [2.0]], [4]), "one for each of the sizes"),
        (lambda: NoiseSample.of_pieces([[1.0], [math.inf]], [4, 4]), "must be finite"),
        (lambda: NoiseSample.of_two_sizes(4, 1.0, 4, 1.0), r"small must be in \[1, large\), got 4 and 4"),
        (lambda: NoiseSample.of_two_sizes(0.5, 1.0, 4, 1.0), r"small must be in \[1, large\)"),
        (lambda: NoiseSample.of_two_sizes(2, math.nan, 4, 1.0), r"small_square must be a number in \[0, inf\)"),
        (lambda: noise_scale([], memory=0), "memory must be"),
    ],
)
def test_bad_input_raises(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
