"""Estimates of the gradient noise scale with intervals, from gradients of parts of batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashpot.analysis.wording import number
from dashpot.constraints import POSITIVE, check, shown
from dashpot.errors import ArgumentError
from dashpot.utils.student import t_quantile

MINIMUM = 5
"""Smallest number of measurements of an estimate."""


class NoiseSample(NamedTuple):
    """One measurement of the gradient noise, usually from one batch.

    Attributes:
        square: Squared norm of the mean gradient of the batch, with expectation |G|^2 + trace/batch.
        trace: Unbiased estimate of the trace of the covariance of the gradients of single examples.
        batch: Number of examples of the batch.
    """

    square: float
    trace: float
    batch: float

    @classmethod
    def of_pieces(cls, gradients: ArrayLike, sizes: Sequence[float]) -> NoiseSample:
        """Return the measurement of the mean gradients of at least two disjoint pieces of a batch.

            g = sum_k b_k g_k/B,    trace = sum_k b_k |g_k - g|^2/(K - 1),    B = sum_k b_k

        Args:
            gradients: Mean gradients g_k of the pieces, one row a piece.
            sizes: Numbers of examples b_k > 0 of the pieces.

        Raises:
            ArgumentError: If there are fewer than two pieces, or a value is out of range.

        Source: McCandlish et al., arXiv 1812.06162, in the form of a sample variance.

        Example:
            >>> NoiseSample.of_pieces([[1.0, 0.0], [3.0, 0.0]], sizes=[4, 4])
            NoiseSample(square=4.0, trace=8.0, batch=8.0)
        """
        g, b = np.asarray(gradients, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
        if g.ndim != 2 or len(g) < 2 or b.shape != g.shape[:1]:
            raise ArgumentError(
                f"NoiseSample: gradients must have at least two rows, one for each of the sizes, got the shape "
                f"{g.shape} and {b.size} sizes."
            )
        if not (np.isfinite(g).all() and np.isfinite(b).all() and (b > 0).all()):
            raise ArgumentError("NoiseSample: gradients must be finite, and sizes positive.")
        mean = b @ g / b.sum()
        trace = b @ ((g - mean) ** 2).sum(1) / (len(b) - 1)
        return cls(float(mean @ mean), float(trace), float(b.sum()))

    @classmethod
    def of_sums(cls, squares: float, total: float, pieces: int, batch: float) -> NoiseSample:
        """Return the measurement of K >= 2 pieces of equal size, whose gradients add up to the gradient of the batch.

            trace = B (K sum_k |g_k|^2 - |g|^2)/(K - 1),    g = sum_k g_k

        Args:
            squares: Sum of the squared norms of the summands.
            total: Squared norm of their sum.
            pieces: Number K of summands.
            batch: Number of examples of the batch.
        """
        # Rounding may make the difference negative.
        return cls(total, max(0.0, pieces * squares - total) * batch / (pieces - 1), batch)

    @classmethod
    def of_two_sizes(cls, small: float, small_square: float, large: float, large_square: float) -> NoiseSample:
        """Return the measurement of two batches of different size; the small one may be a part of the large one.

            trace = (|g_s|^2 - |g_l|^2)/(1/b_s - 1/b_l),    |G|^2 = (b_l |g_l|^2 - b_s |g_s|^2)/(b_l - b_s)

        Args:
            small: Number of examples b_s >= 1.
            small_square: Squared norm of the mean gradient of the small batch.
            large: Number of examples b_l > b_s.
            large_square: Squared norm of the mean gradient of the large batch.

        Raises:
            ArgumentError: If the sizes are equal, or a value is out of range.

        Source: McCandlish et al., arXiv 1812.06162, appendix A.

        Example:
            >>> NoiseSample.of_two_sizes(2, 3.0, 4, 2.0)
            NoiseSample(square=2.0, trace=4.0, batch=4)
        """
        for name, value in (("small", small), ("large", large)):
            check("NoiseSample", name, value, POSITIVE)
        if not 1 <= small < large:
            raise ArgumentError(f"NoiseSample: small must be in [1, large), got {shown(small)} and {shown(large)}.")
        for name, value in (("small_square", small_square), ("large_square", large_square)):
            if not 0 <= value < math.inf:
                raise ArgumentError(f"NoiseSample: {name} must be a number in [0, inf), got {shown(value)}.")
        return cls(large_square, (small_square - large_square) / (1 / small - 1 / large), large)


@dataclass(frozen=True)
class NoiseScale:
    """Result of `noise_scale`. Numbers that the measurements do not determine are None, with the reason in `reason`.

    Attributes:
        scale: Estimate of tr(Sigma)/|G|^2, in examples.
        low: Lower end of the 95 % interval; None if unknown.
        high: Upper end of the 95 % interval; None if unknown or infinite.
        grad_square: Unbiased estimate of |G|^2, which may be negative.
        trace: Unbiased estimate of tr(Sigma).
        batch: Number of examples of the batches; the mean that the estimate uses if they differ.
        samples: Number of measurements.
        effective: Effective number of measurements, (sum of weights)^2/(sum of squared weights).
        reason: Reason why numbers are None, a sentence, or None.
    """

    scale: float | None = None
    low: float | None = None
    high: float | None = None
    grad_square: float | None = None
    trace: float | None = None
    batch: float | None = None
    samples: int = 0
    effective: float = 0.0
    reason: str | None = None

    def __str__(self) -> str:
        if self.scale is None:
            bound = "" if self.low is None else f" It is at least {number(self.low)} with 97.5 % confidence."
            return f"Noise scale unknown: {self.reason}{bound}"
        low, high = ("unknown" if end is None else number(end) for end in (self.low, self.high))
        reason = "" if self.reason is None else f" {self.reason}"
        return f"Noise scale {number(self.scale)} examples (95 % interval {low} to {high}).{reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes as JSON-serializable data."""
        return asdict(self)


def noise_scale(samples: Iterable[NoiseSample], memory: float | None = None) -> NoiseScale:
    """Estimate the gradient noise scale from several measurements, with a 95 % interval.

        scale = tr(Sigma)/|G|^2

    with the true gradient G and the covariance Sigma of the gradients of single examples. Batches much smaller than the
    scale are dominated by noise; batches much larger hardly improve a step. The means of trace and |G|^2 over the
    measurements are unbiased, and are divided last. The interval is that of log(|g|^2/trace), by the jackknife over
    measurements and Student's distribution, and is mapped to the scale by 1/scale = |g|^2/trace - 1/B. It is unbounded
    above if the measurements are compatible with G = 0.

    Args:
        samples: Measurements, oldest first, for example with `NoiseSample.of_pieces`. They should be independent.
        memory: Number of measurements > 0 over which the weights of older measurements decay by a factor of e, for
            training runs, in which the scale drifts; None: equal weights.

    Returns:
        The estimate. It is None for fewer than 5 measurements, non-finite measurements, and estimates of trace or
        |G|^2 that are not positive, with the reason.

    Raises:
        ArgumentError: If `memory` is out of range.

    Source: McCandlish et al., arXiv 1812.06162; Efron and Stein, Annals of Statistics 9, 1981 (jackknife).

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> batches = [1.0 + rng.normal(size=(2, 100)) for _ in range(20)]  # two pieces of 4 examples, sd 2
        >>> found = noise_scale([NoiseSample.of_pieces(pieces, [4, 4]) for pieces in batches])
        >>> print(f"{found.scale:.2f}, {found.low:.2f} to {found.high:.2f}")
        4.36, 3.90 to 4.90
    """
    if memory is not None:
        check("noise_scale", "memory", memory, POSITIVE)
    rows = list(samples)
    count = len(rows)
    if count < MINIMUM:
        return NoiseScale(samples=count, reason=f"{count} of the required {MINIMUM} measurements exist.")
    square, trace, batch = np.array(rows, dtype=np.float64).T
    if not (np.isfinite(square).all() and np.isfinite(trace).all()):
        return NoiseScale(samples=count, reason="A norm of a gradient is not finite.")
    weights = np.ones(count) if memory is None else np.exp(-np.arange(count)[::-1] / memory)
    return _estimate(square, trace, batch, weights / weights.sum())


Array = NDArray[np.float64]


def _estimate(square: Array, trace: Array, batch: Array, weights: Array) -> NoiseScale:
    mean_square, mean_trace = float(weights @ square), float(weights @ trace)
    per_example = float(weights @ (trace / batch))  # trace/B, averaged
    signal = mean_square - per_example
    inverse = per_example / mean_trace if mean_trace > 0 else float(weights @ (1 / batch))
    known: dict[str, Any] = {
        "grad_square": signal,
        "trace": mean_trace,
        "batch": 1 / inverse,
        "samples": len(square),
        "effective": 1 / float(weights @ weights),
    }
    if mean_trace <= 0:
        return NoiseScale(**known, reason="The estimated trace of the covariance is not positive.")
    scale = mean_trace / signal if signal > 0 else None
    reason = None if scale is not None else "The estimate of |G|^2 is not positive: the noise hides the gradient."
    low, high, why = _ends(_ratio_interval(square, trace, weights), inverse)
    return NoiseScale(scale, low, high, **known, reason=reason or why)


def _ends(ratio: tuple[float, float] | None, inverse: float) -> tuple[float | None, float | None, str | None]:
    """Return the interval of the scale for an interval of |g|^2/trace, and a reason for missing ends."""
    if ratio is None:
        return None, None, "The measurements do not determine an interval."
    low = 1 / (ratio[1] - inverse) if ratio[1] > inverse else None
    high = 1 / (ratio[0] - inverse) if ratio[0] > inverse else None
    return low, high, "The interval is unbounded: the measurements are compatible with G = 0." if high is None else None


def _ratio_interval(above: Array, below: Array, weights: Array) -> tuple[float, float] | None:
    """Return the 95 % interval of a ratio of weighted means of positive quantities, by the jackknife of its log."""
    a, b = weights @ above, weights @ below
    others_above, others_below = (a - weights * above), (b - weights * below)
    if min(a, b, others_above.min(), others_below.min()) <= 0:
        return None
    center = math.log(a / b)
    changes = np.log(others_above / others_below) - center
    variance = float((1 - weights) @ (changes - changes.mean()) ** 2)
    effective = 1 / float(weights @ weights)
    # The jackknife underestimates the variance if there are few measurements or if they are skewed. The factor is
    # 1 + O(1/n); `benchmarks/noise_coverage.py` shows the coverage with and without it.
    widening = 1 + (1 + _skewness(changes / weights, weights) ** 2) / (2 * effective)
    half = t_quantile(max(1, round(effective) - 1)) * math.sqrt(variance * widening)
    return math.exp(center - half), math.exp(center + half)


def _skewness(x: Array, weights: Array) -> float:
    deviations = x - weights @ x
    second = float(weights @ deviations**2)
    return float(weights @ deviations**3) / second**1.5 if second > 0 else 0.0
