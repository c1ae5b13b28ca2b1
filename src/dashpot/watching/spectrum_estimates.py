"""Spectra of recorded gradients and directions, and the measured response of the filter between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashpot.analysis.rational_filter import RationalFilter

Array = NDArray[np.float64]
_SMALLEST_SEGMENT = 16


@dataclass(frozen=True)
class Spectrum:
    """Result of `spectrum`. Power densities are relative to white noise with the variance of the gradients, which is 1.

    Attributes:
        steps: Number of recorded steps.
        segment: Length of the segments of the periodogram; frequencies differ by 2 pi/segment.
        elements: Number of elements.
        frequencies: Angular frequencies in radians per step, above 0, up to pi.
        power: Power density of the gradients, averaged over elements.
        filtered: Power density of the directions; theory: response times power.
        response: |H|^2 of the filter, or None without a known filter.
        measured: |H|^2 from the cross spectrum of gradients and directions.
        scale: "exact" if the directions have known scale, "fitted" if the scale of each element is fitted.
        error: Root mean square of |H measured| - |H| over that of |H|, over frequencies.
        reason: Reason why numbers are None, or None.
    """

    steps: int
    segment: int | None = None
    elements: int = 0
    frequencies: list[float] | None = None
    power: list[float] | None = None
    filtered: list[float] | None = None
    response: list[float] | None = None
    measured: list[float] | None = None
    scale: str | None = None
    error: float | None = None
    reason: str | None = None


def spectrum(gradients: Array, directions: Array, section: RationalFilter | None, *, fitted: bool = True) -> Spectrum:
    """Estimate the spectra of gradients and directions, and the response of the filter between them.

    Welch's method: periodograms of segments of a quarter of the record that overlap by half, with a Hann window and
    without their means, are averaged over segments and elements. The response is the average cross spectrum divided by
    the average power of the gradients, so that the randomness of the gradients cancels.

    Args:
        gradients: Inputs of the filter, one row a step and one column an element.
        directions: Outputs of the filter at the same steps.
        section: The filter, or None if it is unknown.
        fitted: Whether the directions have an unknown scale for each element, such as 1/d, which is then fitted.

    Returns:
        The spectra, or a reason.

    Source: Welch, IEEE Transactions on Audio and Electroacoustics 15, 1967.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=(513, 16))
        >>> mean_of_two = RationalFilter(zeros=(-1.0,), gain=0.5)
        >>> found = spectrum(noise[1:], (noise[1:] + noise[:-1]) / 2, mean_of_two)
        >>> found.segment, len(found.frequencies), found.error < 0.01
        (128, 64, True)
    """
    steps = len(gradients)
    segment = steps // 4
    if segment < _SMALLEST_SEGMENT:
        return Spectrum(steps, reason=f"{steps} of the required {4 * _SMALLEST_SEGMENT} steps were recorded.")
    if not (np.isfinite(gradients).all() and np.isfinite(directions).all()):
        return Spectrum(steps, reason="A gradient or an update is not finite.")
    alive = (gradients.std(0) > 0) & (directions.std(0) > 0)
    if not alive.any():
        return Spectrum(steps, reason="All sampled gradients or updates are constant.")
    size = gradients[:, alive].std(0)
    x, y = _segments(gradients[:, alive] / size, segment), _segments(directions[:, alive] / size, segment)
    omega = 2 * np.pi * np.arange(1, segment // 2 + 1) / segment
    theory = None if section is None else np.abs(section.at(omega)) ** 2
    if fitted or theory is None:
        y = y / _scales(x, y, np.ones(len(omega)) if theory is None else theory)
    return _estimate(steps, segment, omega, x, y, theory, "fitted" if fitted or theory is None else "exact")


def element_scales(gradients: Array, directions: Array, section: RationalFilter) -> Array:
    """Return the factor of each element between the filtered gradient and its direction, such as 1/d; at least 0."""
    segment = len(gradients) // 4
    omega = 2 * np.pi * np.arange(1, segment // 2 + 1) / segment
    x, y = _segments(gradients, segment), _segments(directions, segment)
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = _scales(x, y, np.abs(section.at(omega)) ** 2)
    return np.where(np.isfinite(scales), scales, 0.0)


def _estimate(steps: int, segment: int, omega: Array, x: Any, y: Any, theory: Array | None, scale: str) -> Spectrum:
    power, filtered = (np.abs(x) ** 2).mean((0, 2)), (np.abs(y) ** 2).mean((0, 2))
    cross = np.abs((np.conj(x) * y).mean((0, 2)))
    measured = (cross / power) ** 2
    error = None
    if theory is not None:
        error = float(np.sqrt(((np.sqrt(measured) - np.sqrt(theory)) ** 2).mean() / theory.mean()))
    reason = None if theory is not None else "The filter of the update rule is unknown."
    columns = [omega, power, filtered, theory, measured]
    lists = [None if column is None else [float(f"{value:.5g}") for value in column] for column in columns]
    return Spectrum(steps, segment, x.shape[2], *lists, scale=scale, error=error, reason=reason)


def _segments(x: Array, length: int) -> Any:
    """Return the Fourier coefficients of windowed segments: (segment, frequency, element), of variance 1 for noise."""
    window = np.hanning(length + 1)[:-1]  # periodic
    starts = range(0, len(x) - length + 1, length // 2)
    parts = np.stack([x[start : start + length] for start in starts])
    parts = (parts - parts.mean(1, keepdims=True)) * window[:, None]
    return np.fft.rfft(parts, axis=1)[:, 1:] / np.sqrt((window**2).sum())


def _scales(x: Any, y: Any, theory: Array) -> Array:
    """Return the scale of each element with which the total power of its direction is that of theory."""
    expected = (theory[:, None] * (np.abs(x) ** 2).mean(0)).sum(0)
    found = (np.abs(y) ** 2).mean(0).sum(0)
    return np.sqrt(found / expected)
