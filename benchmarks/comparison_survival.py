"""Coverage of intervals of steps to a target and of tuning budgets, and errors of the log-rank test, in simulations.

    python benchmarks/comparison_survival.py [--studies 4000] [--seeds 3 5 10 20] [--only ratios curves tests budgets]

Ratios: each study has two methods. Steps to the target are log-normal or Weibull, with a standard deviation of the
logarithm of .1 or .3. The steps of method a have the distribution of those of method b times 1 (independent seeds) or
1.5 (correlation .5 between the methods within a seed). Runs end when 0, 20 or 50 % of the runs of method a miss the
target, and are evaluated 12 times. Without misses, runs end 30 % after the slowest run of 1000.

Curves: pointwise limits of the survival curve at the true quartiles. Tests: share of p-values of at most .05 for two
methods with equal distributions, on the same grid of 12 evaluations.

Budgets: limits of the best score of k of n tuning trials, for the median best score (order statistics) and the expected
best score (percentiles and BCa of 400 bootstrap samples of trials).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from processor import stamp
from scipy import stats
from table import table

from dashpot.stats.best_of import expected_best, subset_weights
from dashpot.stats.step_ratio import step_ratio
from dashpot.stats.survival import log_rank, survival_curve

Array = NDArray[np.float64]

EVALUATIONS = 12
SHAPES = ("log-normal", "Weibull")
SPREADS = (0.1, 0.3)
EFFECTS = ((1.0, 0.0), (1.5, 0.5))
"""Ratio of the steps, and correlation between the methods within a seed."""
MISSES = (0.0, 0.2, 0.5)
SEEDS = (3, 5, 10, 20)
RESAMPLES = 400


class Cell(NamedTuple):
    """Conditions of one set of simulated studies."""

    shape: str
    spread: float
    ratio: float
    correlation: float
    misses: float
    seeds: int


class Studies(NamedTuple):
    """Steps to the target on the grid of evaluations, studies x methods x seeds; larger than the budget for a miss."""

    steps: Array
    budget: float
    spacing: float


class Coverage(NamedTuple):
    """Shares in percent of intervals that contain the true value, and of intervals with a finite width."""

    covered: float
    bounded: float


def quantile(shape: str, spread: float, probability: Array) -> Array:
    """Return the quantile of steps with median 1."""
    if shape == "log-normal":
        return np.exp(spread * stats.norm.ppf(probability))
    power = math.pi / math.sqrt(6) / spread
    return (-np.log1p(-probability) / math.log(2)) ** (1 / power)


def simulate(cell: Cell, studies: int, seed: int) -> Studies:
    """Return simulated studies."""
    rng = np.random.default_rng(seed)
    shared, own = rng.standard_normal((studies, 1, cell.seeds)), rng.standard_normal((studies, 2, cell.seeds))
    normal = math.sqrt(cell.correlation) * shared + math.sqrt(1 - cell.correlation) * own
    steps = quantile(cell.shape, cell.spread, stats.norm.cdf(normal)) * np.array([[cell.ratio], [1.0]])
    last = float(quantile(cell.shape, cell.spread, np.array(1 - (cell.misses or 0.001)))) * cell.ratio
    budget = last if cell.misses else 1.3 * last
    spacing = budget / EVALUATIONS
    return Studies(np.ceil(steps / spacing) * spacing, budget, spacing)


def ended(steps: Array, budget: float) -> tuple[Array, NDArray[np.bool_]]:
    """Return the steps at the end of runs, and whether they reached the target."""
    return np.minimum(steps, budget), steps <= budget * (1 + 1e-9)


# ---- ratios, curves and tests ----------------------------------------------------------------------------------------


def ratio_coverage(cell: Cell, studies: int, seed: int) -> Coverage:
    """Return the coverage of `step_ratio`; an interval that does not exist counts as unbounded."""
    found = simulate(cell, studies, seed)
    covered = bounded = 0
    for a, b in found.steps:
        interval = step_ratio(*ended(a, found.budget), *ended(b, found.budget), spacing=found.spacing)
        low, high = (0.0, math.inf) if interval is None else (interval.low, interval.high)
        covered += low <= cell.ratio <= high
        bounded += low > 0 and high < math.inf
    return Coverage(100 * covered / studies, 100 * bounded / studies)


def ratio_table(studies: int, seeds: Sequence[int]) -> str:
    rows = []
    for k, (shape, spread, (ratio, correlation)) in enumerate(itertools.product(SHAPES, SPREADS, EFFECTS)):
        for misses in MISSES:
            found = [ratio_coverage(Cell(shape, spread, ratio, correlation, misses, n), studies, k) for n in seeds]
            cells = [f"{x.covered:.1f} ({x.bounded:.0f})" for x in found]
            rows.append([f"{shape}, {spread:g}", f"{ratio:g}", f"{100 * misses:.0f} %", *cells])
    return table(["steps, spread of logarithm", "ratio", "misses of a", *(f"{n} seeds" for n in seeds)], rows)


def curve_coverage(shape: str, seeds: int, studies: int, seed: int) -> list[float]:
    """Return the coverage in percent at the quartiles of the steps, of runs that end at the upper quartile or later."""
    rng = np.random.default_rng(seed)
    places = quantile(shape, 0.3, np.array([0.25, 0.5, 0.75]))
    budget = float(places[-1])
    covered = np.zeros(3)
    for steps in quantile(shape, 0.3, rng.uniform(size=(studies, seeds))):
        curve = survival_curve(*ended(steps, budget))
        at = np.searchsorted(curve.steps, places * (1 + 1e-9), side="right") - 1
        true = np.array([0.75, 0.5, 0.25])
        covered += (curve.low[at] <= true) & (true <= curve.high[at])
    return [float(100 * share / studies) for share in covered]


def curve_table(studies: int, seeds: Sequence[int]) -> str:
    rows = [[str(n), *(f"{x:.1f}" for x in curve_coverage("log-normal", n, studies, 0))] for n in seeds]
    return table(["seeds", "S = .75", "S = .50", "S = .25"], rows)


def log_rank_error(cell: Cell, studies: int, seed: int) -> float:
    """Return the share in percent of log-rank tests of equal distributions with a p-value of at most .05."""
    found = simulate(cell, studies, seed)
    p = [log_rank(*ended(a, found.budget), *ended(b, found.budget)) for a, b in found.steps]
    return 100 * float(np.mean([value is not None and value <= 0.05 for value in p]))


def log_rank_table(studies: int, seeds: Sequence[int]) -> str:
    rows = [
        [shape, f"{correlation:g}", f"{100 * misses:.0f} %"]
        + [f"{log_rank_error(Cell(shape, 0.3, 1.0, correlation, misses, n), studies, 0):.1f}" for n in seeds]
        for shape, correlation, misses in itertools.product(SHAPES, (0.0, 0.5), MISSES)
    ]
    return table(["steps", "correlation", "misses", *(f"{n} seeds" for n in seeds)], rows)


# ---- budgets ---------------------------------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int | tuple[int, ...]], Array]

SEARCHES: dict[str, Draw] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "parabola": lambda rng, size: 0.9 - 0.4 * rng.uniform(-1, 1, size) ** 2 + 0.01 * rng.standard_normal(size),
    "a quarter collapses": lambda rng, size: np.where(
        rng.uniform(size=size) < 0.25, 0.1, 0.9 - 0.05 * rng.exponential(size=size)
    ),
    "log-normal deficit": lambda rng, size: -np.exp(rng.standard_normal(size)),
}
"""Distributions of scores over a search space."""


def true_best(draw: Draw, most: int) -> tuple[Array, Array]:
    """Return the mean and the median of the best of k = 1, ..., `most`, from 400 000 scores."""
    scores = np.sort(draw(np.random.default_rng(1), 400_000))
    ranks = np.arange(1, scores.size + 1) / scores.size
    k = np.arange(1, most + 1)
    mean = np.array([np.diff(ranks**size, prepend=0.0) @ scores for size in k])
    return mean, scores[np.ceil(0.5 ** (1 / k) * scores.size).astype(int) - 1]


def bootstrap(rng: np.random.Generator, scores: Array, weights: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the percentile limits and the BCa limits of the expected best score."""
    n = scores.size
    ordered = np.sort(scores)
    means = np.sort(ordered[rng.integers(n, size=(RESAMPLES, n))], axis=1) @ weights.T
    yield np.quantile(means, 0.025, axis=0), np.quantile(means, 0.975, axis=0)
    estimate, fewer = weights @ ordered, subset_weights(n - 1)
    without = np.array([np.append(fewer @ np.delete(ordered, i), ordered[-1]) for i in range(n)])
    deviation = without.mean(0) - without
    scale = 6 * (deviation**2).sum(0) ** 1.5
    skew = np.divide((deviation**3).sum(0), scale, out=np.zeros(n), where=scale > 0)
    bias = stats.norm.ppf(np.clip(((means < estimate).mean(0) + (means <= estimate).mean(0)) / 2, 0.0025, 0.9975))
    shares = [stats.norm.cdf(bias + (bias + z) / (1 - skew * (bias + z))) for z in (-1.96, 1.96)]
    low, high = (np.array([np.quantile(means[:, i], x[i]) for i in range(n)]) for x in shares)
    yield low, high


def budget_coverage(search: str, trials: int, studies: int, seed: int) -> dict[str, Array]:
    """Return the coverage in percent by method of the limits, for k = 1, ..., n."""
    rng, draw, weights = np.random.default_rng(seed), SEARCHES[search], subset_weights(trials)
    mean, median = true_best(draw, trials)
    covered = {name: np.zeros(trials) for name in ("order statistics", "percentiles", "BCa")}
    for scores in draw(rng, (studies, trials)):
        found = expected_best(scores, "max")
        if found is not None:
            covered["order statistics"] += (found.low <= median) & (median <= found.high)
        limits = zip(("percentiles", "BCa"), bootstrap(rng, scores, weights), strict=True)
        for name, (low, high) in limits:
            covered[name] += (low <= mean) & (mean <= high)
    return {name: 100 * count / studies for name, count in covered.items()}


def budget_table(studies: int, trials: int = 16) -> str:
    places = [1, trials // 4, trials // 2, trials]
    rows = [
        [search, method, *(f"{shares[k - 1]:.1f}" for k in places)]
        for search in SEARCHES
        for method, shares in budget_coverage(search, trials, studies, 0).items()
    ]
    return table([f"scores of {trials} trials", "limits", *(f"best of {k}" for k in places)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    tables = {
        "ratios": lambda given: ratio_table(given.studies, given.seeds),
        "curves": lambda given: curve_table(given.studies, given.seeds),
        "tests": lambda given: log_rank_table(given.studies, given.seeds),
        "budgets": lambda given: budget_table(given.studies),
    }
    parser.add_argument("--only", nargs="+", choices=tables, default=tables)
    given = parser.parse_args()
    print(f"{stamp()} {given.studies} simulated studies in each cell; percent.")
    for name in given.only:
        print(f"\n{name}\n\n{tables[name](given)}", flush=True)


if __name__ == "__main__":
    main()
