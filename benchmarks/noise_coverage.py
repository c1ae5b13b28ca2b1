"""Coverage of the 95 % interval of the noise scale in simulations with known covariance.

    python benchmarks/noise_coverage.py [--simulations 2000] [--quick] [--csv FILE]

Each simulation draws the gradients of batches of 32 examples in two halves, 8 micro-batches or 3 unequal pieces, and
computes the noise scale of 5, 20 or 200 measurements. The true scale is .5, 32 or 1024 examples. Gradients of single
examples are Gaussian with 2, 11 (40 eigenvalues 1/i) or 1000 effective dimensions, or products of a Gaussian vector and
a random length: "t" for Student's distribution with 5 degrees of freedom (kurtosis of every element 9), "lognormal"
for lengths with a standard deviation of .75 of their logarithm (kurtosis 28). An interval without an upper end covers
if its lower end does; a measurement without an interval does not.

The second table compares candidates on the same simulations: Fieller's interval and the delta method with Student's
distribution, the bootstrap (percentiles), the jackknife of the logarithm, and `noise_scale`, which widens it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from processor import stamp
from table import table

from dashpot.utils.student import t_quantile
from dashpot.watching import NoiseSample, noise_scale

Array = NDArray[np.float64]

LAYOUTS = {"halves": (16, 16), "8 micro-batches": (4,) * 8, "sizes 4, 12, 16": (4, 12, 16)}
SPECTRA = {"2": np.ones(2), "11": 1 / np.arange(1, 41), "1000": np.ones(1000)}
"""Eigenvalues of the covariance by effective dimension, (sum of eigenvalues)^2/(sum of their squares)."""
TAILS = ("Gaussian", "t", "lognormal")
SCALES = (0.5, 32.0, 1024.0)
COUNTS = (5, 20, 200)
BATCH = 32
METHODS = ("Fieller", "delta", "bootstrap", "jackknife", "noise_scale")


class Cell(NamedTuple):
    """Conditions of one set of simulations."""

    layout: str
    tail: str
    dimension: str
    scale: float
    count: int


def lengths(rng: np.random.Generator, tail: str, shape: tuple[int, ...]) -> Array:
    """Return squared random lengths with mean 1."""
    if tail == "Gaussian":
        return np.ones(shape)
    if tail == "t":
        return 3 / rng.chisquare(5, shape)
    return np.exp(2 * 0.75 * rng.standard_normal(shape) - 2 * 0.75**2)


def grams(rng: np.random.Generator, eigenvalues: Array, shape: tuple[int, int], pieces: int) -> tuple[Array, Array]:
    """Return the components along the gradient and the inner products of Gaussian vectors, `pieces` in each sample.

    The gradient has equal components along all eigenvectors.
    """
    dimension = len(eigenvalues)
    if dimension <= 40:
        parts = [_direct(rng, eigenvalues, (1, shape[1]), pieces) for _ in range(shape[0])]
        along, inner = (np.concatenate(x) for x in zip(*parts, strict=True))
        return along, inner
    # For equal eigenvalues, the components across the gradient have a Wishart distribution (Bartlett's decomposition).
    along = rng.standard_normal((*shape, pieces))
    factor = np.zeros((*shape, pieces, pieces))
    for i in range(pieces):
        factor[..., i, i] = np.sqrt(rng.chisquare(dimension - 1 - i, shape))
        factor[..., i, :i] = rng.standard_normal((*shape, i))
    return along, factor @ factor.swapaxes(-1, -2) + along[..., :, None] * along[..., None, :]


def _direct(rng: np.random.Generator, eigenvalues: Array, shape: tuple[int, int], pieces: int) -> tuple[Array, Array]:
    z = rng.standard_normal((*shape, pieces, len(eigenvalues)), dtype=np.float32) * np.sqrt(eigenvalues).astype("f4")
    along = z.sum(-1, dtype=np.float64) / math.sqrt(len(eigenvalues))
    return along, (z @ z.swapaxes(-1, -2)).astype(np.float64)


def simulate(rng: np.random.Generator, cell: Cell, simulations: int) -> tuple[Array, Array]:
    """Return |g|^2 and the trace of every measurement, with a row for each simulation."""
    sizes, eigenvalues = np.array(LAYOUTS[cell.layout]), SPECTRA[cell.dimension]
    shape = (simulations, cell.count)
    along, inner = grams(rng, eigenvalues, shape, len(sizes))
    squares = np.stack([lengths(rng, cell.tail, (*shape, size)).sum(-1) / size**2 for size in sizes], -1)
    roots = np.sqrt(squares)  # standard deviation of the mean over a piece
    inner = inner * roots[..., :, None] * roots[..., None, :]
    weights = sizes / sizes.sum()
    mean = np.einsum("k,...kl,l", weights, inner, weights)
    length = math.sqrt(eigenvalues.sum() / cell.scale)
    square = length**2 + 2 * length * (along * roots) @ weights + mean
    trace = (np.einsum("...kk,k", inner, sizes) - sizes.sum() * mean) / (len(sizes) - 1)
    return square, trace


# ---- intervals of |g|^2/trace ----------------------------------------------------------------------------------------


def intervals(rng: np.random.Generator, a: Array, s: Array) -> Iterator[tuple[str, Array, Array]]:
    """Yield the name of each alternative, and its lower and upper ends for all simulations."""
    count = a.shape[1]
    t, mean_a, mean_s = t_quantile(count - 1), a.mean(1), s.mean(1)
    center = np.log(mean_a / mean_s)
    yield "Fieller", *_fieller(a, s, t)
    error = (a / mean_a[:, None] - s / mean_s[:, None]).std(1, ddof=1) / math.sqrt(count)
    yield "delta", np.exp(center - t * error), np.exp(center + t * error)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=400).T / count
    ratios = (a @ drawn) / (s @ drawn)
    yield "bootstrap", *np.quantile(ratios, (0.025, 0.975), axis=1)
    logs = np.log((a.sum(1, keepdims=True) - a) / (s.sum(1, keepdims=True) - s))
    error = logs.std(1) * math.sqrt(count - 1)
    yield "jackknife", np.exp(center - t * error), np.exp(center + t * error)


def _fieller(a: Array, s: Array, t: float) -> tuple[Array, Array]:
    """Return the ratios r for which the mean of a - r s is not significantly different from 0."""
    q, mean_a, mean_s = t**2 / a.shape[1], a.mean(1), s.mean(1)
    covariance = ((a - mean_a[:, None]) * (s - mean_s[:, None])).sum(1) / (a.shape[1] - 1)
    two = mean_s**2 - q * s.var(1, ddof=1)
    one = mean_a * mean_s - q * covariance
    zero = mean_a**2 - q * a.var(1, ddof=1)
    root = np.sqrt(np.maximum(one**2 - two * zero, 0))
    bounded = two > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = (one - root) / two, (one + root) / two
    return np.where(bounded, low, 0), np.where(bounded, high, np.inf)


def coverage(cell: Cell, simulations: int, seed: int) -> tuple[dict[str, float], float]:
    """Return the coverage of each method in percent, and the share of intervals of `noise_scale` without upper end."""
    rng = np.random.default_rng(seed)
    square, trace = simulate(rng, cell, simulations)
    true = 1 / cell.scale + 1 / BATCH
    found = {name: float(((low <= true) & (true <= high)).mean()) for name, low, high in intervals(rng, square, trace)}
    results = [noise_scale(map(NoiseSample, a, s, itertools.repeat(BATCH))) for a, s in zip(square, trace, strict=True)]
    covered = [r.low is not None and r.low <= cell.scale <= (math.inf if r.high is None else r.high) for r in results]
    unbounded = [r.high is None for r in results]
    found["noise_scale"] = float(np.mean(covered))
    return {name: 100 * share for name, share in found.items()}, 100 * float(np.mean(unbounded))


# ---- tables ----------------------------------------------------------------------------------------------------------


def cells(quick: bool) -> list[Cell]:
    counts = COUNTS[:2] if quick else COUNTS
    return [Cell(*values) for values in itertools.product(LAYOUTS, TAILS, SPECTRA, SCALES, counts)]


def coverage_table(results: dict[Cell, tuple[dict[str, float], float]]) -> str:
    """Return the lowest and highest coverage of `noise_scale` over the layouts and scales of each condition."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for cell, (found, _) in results.items():
        groups.setdefault((cell.tail, cell.dimension, cell.count), []).append(found["noise_scale"])
    counts = sorted({count for _, _, count in groups})
    rows = [
        [tail, dimension, *(f"{min(x):.1f} to {max(x):.1f}" for x in (groups[tail, dimension, n] for n in counts))]
        for tail, dimension in dict.fromkeys((tail, dimension) for tail, dimension, _ in groups)
    ]
    return table(["gradients", "dimensions", *(f"{n} measurements" for n in counts)], rows)


def method_table(results: dict[Cell, tuple[dict[str, float], float]]) -> str:
    """Return the coverage of each method, and the share of conditions within the limits."""
    rows = []
    for tail, method in itertools.product(TAILS, METHODS):
        x = np.array([found[method] for cell, (found, _) in results.items() if cell.tail == tail])
        shares = [f"{100 * np.mean((x >= low) & (x <= 190 - low)):.0f} %" for low in (92, 94)]
        rows.append([tail, method, f"{x.min():.1f}", f"{x.mean():.1f}", f"{x.max():.1f}", *shares])
    return table(["gradients", "interval", "lowest", "mean", "highest", "in 92 to 98", "in 94 to 96"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="without 200 measurements")
    parser.add_argument("--csv", type=Path, help="file for the coverage of every condition")
    given = parser.parse_args()
    results = {}
    for seed, cell in enumerate(cells(given.quick)):
        results[cell] = coverage(cell, given.simulations, seed)
        print(*cell, *(f"{share:.1f}" for share in results[cell][0].values()), file=sys.stderr)
    print(f"{stamp()} {given.simulations} simulations of each of {len(results)} conditions.\n")
    print(coverage_table(results), method_table(results), sep="\n\n")
    if given.csv:
        with given.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Cell._fields, *METHODS, "unbounded"])
            writer.writerows([*cell, *(found[name] for name in METHODS), u] for cell, (found, u) in results.items())


if __name__ == "__main__":
    main()
