"""Error rates, coverage and power of the statistics of comparisons, in simulated studies.

    python benchmarks/comparison_statistics.py [--studies 4000] [--seed 0]

Each study draws scores of 2 or 6 methods on 3, 5, 10 or 20 seeds: an effect of the seed, equal for all methods, with
the standard deviation 3, plus noise with the standard deviation 1. All methods have equal means, so that every verdict
is false. The noise is

* Gaussian, "t" (Student's with 3 degrees of freedom), "skewed" (lognormal, standard deviation .75 of the logarithm), or
  "collapse" (Gaussian, and with the probability .1 a loss of 10): a method against itself under other names;
* "one noisy", "one wild": Gaussian, the last method with a standard deviation 4 or 10 times as large;
* "families": Gaussian, with a correlation of .96 within each half of the methods (6 methods only);
* "one skewed": Gaussian, the last method with 4 times the skewed noise; the differences are asymmetric.

Further tables: Tukey's and BCa intervals alone; coverage of the interval of the mean of one method; power for a planted
difference, predicted and simulated; the error rate of a group-sequential study with analyses after 5, 10 and 20 seeds;
and the share of studies with the verdict "equivalent" although the true difference equals the margin.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from processor import stamp
from scipy import stats
from table import table

from dashpot.stats.block_model import Residual, pair_level, residual, tukey_factor
from dashpot.stats.bootstrap import bca_limits
from dashpot.stats.differences import RESAMPLED, limits_of_means
from dashpot.stats.pooling import CLEAR_LEVEL, SPHERICITY_LEVEL, Pool, pair_half_width, pool
from dashpot.stats.power import power
from dashpot.stats.sequential import spent_alpha
from dashpot.stats.sign_flips import sign_flip_p
from dashpot.stats.sphericity import sphericity_p

Array = NDArray[np.float64]

SAME = ("Gaussian", "t", "skewed", "collapse")
KINDS = (*SAME, "one noisy", "one wild", "families", "one skewed")
SEEDS = (3, 5, 10, 20)
METHODS = (2, 6)
LOOKS = (5, 10, 20)
SKEW = 0.75


class Rates(NamedTuple):
    """Shares of the studies in percent."""

    false: float
    """Studies with any verdict."""
    joint: float
    """Studies in which all intervals contain the true difference."""
    pair: float
    """Intervals that contain the true difference."""


def noise(rng: np.random.Generator, kind: str, shape: tuple[int, int, int]) -> Array:
    """Return noise with mean 0, of shape (studies, methods, seeds), and standard deviation 1 except where noted."""
    normal = rng.standard_normal(shape)
    if kind == "t":
        return rng.standard_t(3, shape) / np.sqrt(3)
    if kind == "skewed":
        return skewed(normal)
    if kind == "collapse":
        return (normal - 10 * (rng.random(shape) < 0.1) + 1) / np.sqrt(10)
    if kind in ("one noisy", "one wild"):
        normal[:, -1] *= 4 if kind == "one noisy" else 10
    if kind == "families":
        families = rng.standard_normal((shape[0], 2, shape[2])).repeat(shape[1] // 2, axis=1)
        return 0.2 * normal + np.sqrt(0.96) * families
    if kind == "one skewed":
        normal[:, -1] = 4 * skewed(normal[:, -1])
    return normal


def skewed(normal: Array) -> Array:
    """Return lognormal values with mean 0 and standard deviation 1 of normal ones."""
    square = np.exp(SKEW**2)
    return (np.exp(SKEW * normal) - np.sqrt(square)) / np.sqrt(square * (square - 1))


def scores(rng: np.random.Generator, kind: str, shape: tuple[int, int, int]) -> Array:
    """Return scores of methods with equal means."""
    return noise(rng, kind, shape) + 3 * rng.standard_normal((shape[0], 1, shape[2]))


def limits_of_pairs(scores: Array, level: float) -> tuple[Array, Array]:
    """Return the limits of all pairs for many studies, as `all_pairs` does for one.

    Args:
        scores: Scores by study, method and seed, without missing or equal scores.
        level: Simultaneous confidence level.

    Returns:
        Lower and upper limits by study and pair, with the pairs in the order of `itertools.combinations`.
    """
    methods, seeds = scores.shape[1:]
    first, second = np.triu_indices(methods, 1)
    differences = scores[:, first] - scores[:, second]
    if seeds >= RESAMPLED:
        return limits_of_means(differences, pair_level(level, methods))
    variance = differences.var(-1, ddof=1)
    half = pair_half_width(variance, seeds, None, level, methods)
    if methods > 2:
        p = sphericity_p(scores)
        for is_spherical in (True, False):
            rows = (p >= CLEAR_LEVEL) & ((p >= SPHERICITY_LEVEL) == is_spherical)
            found = residual(scores[rows])
            pooled = Pool(tuple(range(methods)), Residual(found.variance[:, None], found.degrees), is_spherical)
            half[rows] = pair_half_width(variance[rows], seeds, pooled, level, methods)
        for study in np.flatnonzero(p < CLEAR_LEVEL):
            pooled = pool(scores[study])
            among = np.isin(first, pooled.members) & np.isin(second, pooled.members)
            if among.any():
                half[study, among] = pair_half_width(variance[study, among], seeds, pooled, level, methods)
    mean = differences.mean(-1)
    return mean - half, mean + half


def separated(values: Array, level: float, low: Array, high: Array) -> NDArray[np.bool_]:
    """Return for each study and pair whether there is a verdict: the interval excludes 0, and the p-value is small.

    The p-values below 20 seeds are those of the intervals (tests/stats/test_stats_all_pairs.py).
    """
    found = (low > 0) | (high < 0)
    if values.shape[-1] < RESAMPLED:
        return found
    rows = np.flatnonzero(found.any(-1))
    first, second = np.triu_indices(values.shape[1], 1)
    found[rows] &= sign_flip_p(values[rows][:, first] - values[rows][:, second]) <= 1 - level
    return found


def null_rates(kind: str, methods: int, seeds: int, studies: int, seed: int = 0) -> Rates:
    """Return the rates of studies of methods with equal means."""
    values = scores(np.random.default_rng((seed, methods, seeds, *kind.encode())), kind, (studies, methods, seeds))
    low, high = limits_of_pairs(values, 0.95)
    covered = (low <= 0) & (high >= 0)
    verdicts = separated(values, 0.95, low, high).any(-1)
    return Rates(*(100 * float(x.mean()) for x in (verdicts, covered.all(-1), covered)))


def mean_coverage(kind: str, seeds: int, studies: int, seed: int = 0) -> float:
    """Return the coverage of the interval of the mean of one method in percent."""
    values = noise(np.random.default_rng((seed, seeds, *kind.encode())), kind, (studies, 1, seeds))[:, 0]
    low, high = limits_of_means(values, 0.95)
    return 100 * float(((low <= 0) & (high >= 0)).mean())


def found_rate(
    difference: float, methods: int, seeds: int, studies: int, seed: int = 0, kind: str = "Gaussian"
) -> float:
    """Return the share of studies, in percent, that find a planted difference of the first two methods."""
    rng = np.random.default_rng((seed, methods, seeds))
    values = scores(rng, kind, (studies, methods, seeds))
    values[:, 0] += difference
    low, high = limits_of_pairs(values, 0.95)
    return 100 * float(separated(values, 0.95, low, high)[:, 0].mean())


def sequential_rate(kind: str, methods: int, studies: int, seed: int = 0) -> float:
    """Return the share of group-sequential studies, in percent, with any verdict at any look."""
    rng = np.random.default_rng((seed, methods, *kind.encode()))
    values = scores(rng, kind, (studies, methods, LOOKS[-1]))
    verdicts = np.zeros(studies, dtype=bool)
    for look, alpha in zip(LOOKS, spent_alpha(LOOKS), strict=True):
        part = values[..., :look]
        verdicts |= separated(part, 1 - alpha, *limits_of_pairs(part, 1 - alpha)).any(-1)
    return 100 * float(verdicts.mean())


def false_equivalence(kind: str, margin: float, seeds: int, studies: int, seed: int = 0) -> float:
    """Return the share of studies of two methods, in percent, with the interval within the margin.

    The true difference is the margin.
    """
    rng = np.random.default_rng((seed, seeds, *kind.encode()))
    values = scores(rng, kind, (studies, 2, seeds))
    values[:, 0] += margin
    low, high = limits_of_pairs(values, 0.95)
    return 100 * float(((low >= -margin) & (high <= margin)).mean())


# ---- tables ----------------------------------------------------------------------------------------------------------


def null_table(studies: int, seed: int) -> str:
    """Return the rates for all kinds of noise."""
    rows = []
    for methods in METHODS:
        for kind in KINDS:
            if methods == 2 and kind in ("families", "one wild"):
                continue
            rates = [null_rates(kind, methods, seeds, studies, seed) for seeds in SEEDS]
            rows.append([str(methods), kind, *(f"{x.false:.1f} / {x.joint:.1f}" for x in rates)])
    return table(["methods", "noise", *(f"{n} seeds" for n in SEEDS)], rows, left=2)


def pair_table(studies: int, seed: int) -> str:
    """Return the coverage of single intervals of 6 methods."""
    rows = [[k, *(f"{null_rates(k, 6, n, studies, seed).pair:.1f}" for n in SEEDS)] for k in ("Gaussian", "one noisy")]
    return table(["noise", *(f"{n} seeds" for n in SEEDS)], rows)


def mean_table(studies: int, seed: int) -> str:
    """Return the coverage of the interval of the mean of one method."""
    counts = (*SEEDS, 50)
    rows = [[kind, *(f"{mean_coverage(kind, n, studies, seed):.1f}" for n in counts)] for kind in SAME]
    return table(["noise", *(f"{n} seeds" for n in counts)], rows)


def power_table(studies: int, seed: int) -> str:
    """Return predicted and simulated power."""
    rows = []
    for methods in METHODS:
        for difference in (1.0, 2.0, 4.0):
            cells = [
                f"{100 * power(difference, np.sqrt(2), n, methods):.1f} / "
                f"{found_rate(difference, methods, n, studies, seed):.1f}"
                for n in SEEDS
            ]
            rows.append([str(methods), f"{difference:g}", *cells])
    for difference in (2.0, 4.0):
        found = [f"- / {found_rate(difference, 6, n, studies, seed, 'one wild'):.1f}" for n in SEEDS]
        rows.append(["6, one wild", f"{difference:g}", *found])
    return table(["methods", "difference", *(f"{n} seeds" for n in SEEDS)], rows)


def sequential_table(studies: int, seed: int) -> str:
    """Return error rates of group-sequential studies."""
    rows = [[k, *(f"{sequential_rate(k, methods, studies, seed):.1f}" for methods in METHODS)] for k in SAME]
    return table(["noise", *(f"{methods} methods" for methods in METHODS)], rows)


def equivalence_table(studies: int, seed: int) -> str:
    """Return rates of false equivalence for margins in units of the standard deviation of a method."""
    rows = [[kind, *(f"{false_equivalence(kind, 3, n, studies, seed):.1f}" for n in SEEDS)] for kind in SAME]
    return table(["noise", *(f"{n} seeds" for n in SEEDS)], rows)


def alternatives_table(studies: int, seed: int) -> str:
    """Return false verdicts of Tukey's intervals alone, and the coverage of BCa intervals of 20 differences alone."""
    rows = []
    for kind in ("Gaussian", "one noisy", "one wild", "families"):
        rates = [f"{tukey_rate(kind, n, studies, seed):.1f}" for n in SEEDS]
        rows.append([f"Tukey, 6 methods, {kind}: false verdicts", *rates])
    for kind in SAME[:3]:
        values = scores(np.random.default_rng((seed, *kind.encode())), kind, (studies, 2, 20))
        differences = values[:, 0] - values[:, 1]
        low, high = bca_limits(differences, 0.95)
        narrow = stats.norm.isf(0.025) / stats.t.isf(0.025, 19) * np.sqrt(19 / 20)
        mean = differences.mean(-1)
        plain = (mean + narrow * (low - mean) <= 0) & (mean + narrow * (high - mean) >= 0)
        for name, covered in (("BCa", plain), ("BCa, widened", (low <= 0) & (high >= 0))):
            rows.append([f"{name}, 2 methods, {kind}: coverage", "", "", "", f"{100 * covered.mean():.1f}"])
    return table(["interval", *(f"{n} seeds" for n in SEEDS)], rows)


def tukey_rate(kind: str, seeds: int, studies: int, seed: int) -> float:
    """Return the share of studies of 6 methods, in percent, with a false verdict by Tukey's intervals alone."""
    values = scores(np.random.default_rng((seed, 6, seeds, *kind.encode())), kind, (studies, 6, seeds))
    found = residual(values)
    half = tukey_factor(0.95, 6, found.degrees) * np.sqrt(2 * found.variance / seeds)
    return 100 * float((np.ptp(values.mean(-1), axis=-1) > half).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.process_time()
    print(f"{stamp()} {given.studies} studies of each condition; numbers in percent.\n")
    for title, made in {
        "Any false verdict / joint coverage of the 95 % intervals": null_table,
        "Coverage of the single intervals of 6 methods": pair_table,
        "Coverage of the mean of one method": mean_table,
        "Power, predicted / simulated, for a planted difference in standard deviations of a method": power_table,
        "Any false verdict at the looks 5, 10, 20": sequential_table,
        "False equivalence, margin 3": equivalence_table,
        "Alternatives": alternatives_table,
    }.items():
        print(f"{title}\n\n{made(given.studies, given.seed)}\n", flush=True)
    print(f"{time.process_time() - start:.0f} s of CPU time")


if __name__ == "__main__":
    main()
