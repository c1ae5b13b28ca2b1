"""Error rates of the whole judgement of comparisons, from the results of runs to headline and sentences.

    python benchmarks/comparison_judge.py

prints the tables of "The whole judgement" and "Additional seeds" in docs/statistics.md. Each study draws accuracies of
2, 6 or 9 methods on 3, 5, 10 or 20 seeds: .88, plus an effect of the seed with the standard deviation .005, plus noise
with the standard deviation .01. All methods have equal means, so that every verdict is false. The noise is

* Gaussian, "t" (Student's with 3 degrees of freedom), or "skewed" (lognormal, standard deviation .75 of the logarithm);
* "unequal": Gaussian with standard deviations .005 to .02, evenly spaced over the methods;
* "divergence": Gaussian, and a run of any method diverges with the probability .05, with the accuracy .1;
* "one diverged": Gaussian, and exactly one run of the last method diverges; pairs of that method do not count;
* "discrete": fractions of 297 images, binomial with the probability .97 for all methods and seeds;
* "correlated": Gaussian, with a standard deviation .05 of the effect of the seed.

Further tables: the group-sequential error rate, false equivalence at the margin, the verdicts after additional seeds,
and the error rate of seeds added without a plan.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from comparison_statistics import skewed
from numpy.typing import NDArray
from processor import stamp
from table import table

from dashpot.comparison.findings import Findings
from dashpot.comparison.judge import judge, look_alpha
from dashpot.comparison.looks import is_decided
from dashpot.comparison.results import JudgedRun, Results, ScoreRule

Array = NDArray[np.float64]

KINDS = ("Gaussian", "t", "skewed", "unequal", "divergence", "one diverged", "discrete", "correlated")
METHODS = (2, 6, 9)
SEEDS = (3, 5, 10, 20)
LOOKS = (5, 10, 20)
NOISE, UNTRAINED, IMAGES = 0.01, 0.1, 297
MARGIN = 2 * NOISE
CLAIM = re.compile(r"is best|is better|are worse|is worse")
"""Words of a headline or sentence that states a difference."""


class Rates(NamedTuple):
    """Shares of the studies in percent, except for `mean`."""

    headline: float
    """Headlines that state a difference."""
    sentence: float
    """Studies with any sentence that states a difference."""
    joint: float
    """Studies in which all intervals of differences contain 0."""
    mean: float
    """Intervals of means that contain the true mean."""
    contradictions: float
    """Studies in which an interval excludes 0 with p > .05, or the reverse."""


def scores(rng: np.random.Generator, kind: str, methods: int, seeds: int) -> Array:
    """Return scores of one study, by method and seed; diverged runs have the score `UNTRAINED`."""
    if kind == "discrete":
        return rng.binomial(IMAGES, 0.97, (methods, seeds)) / IMAGES
    noise = rng.standard_normal((methods, seeds))
    if kind == "t":
        noise = rng.standard_t(3, noise.shape) / np.sqrt(3)
    if kind == "skewed":
        noise = -skewed(noise)
    if kind == "unequal":
        noise *= np.linspace(0.5, 2, methods)[:, None]
    block = NOISE * (5 if kind == "correlated" else 0.5)
    values = 0.88 + NOISE * noise + block * rng.standard_normal(seeds)
    if kind == "divergence":
        values[rng.random(values.shape) < 0.05] = UNTRAINED
    if kind == "one diverged":
        values[-1, rng.integers(seeds)] = UNTRAINED
    return values


def true_mean(kind: str) -> float:
    """Return the expected score of a method; for "one diverged", of the others."""
    return {"discrete": 0.97, "divergence": 0.95 * 0.88 + 0.05 * UNTRAINED}.get(kind, 0.88)


def results(values: Array, *, looks: tuple[int, ...] = (), margin: float | None = None) -> Results:
    """Return the results of a study with these scores."""
    names = tuple(f"method-{k}" for k in range(len(values)))
    runs = tuple(
        JudgedRun(name, seed, "diverged" if score == UNTRAINED else "done", float(score), steps=100)
        for name, row in zip(names, values, strict=True)
        for seed, score in enumerate(row)
    )
    rule = ScoreRule("accuracy", "max", "test", margin=margin)
    return Results("simulated", "", rule, names, tuple(range(values.shape[1])), runs, looks=looks)


def draws(name: tuple[object, ...], kind: str, methods: int, seeds: int, studies: int, seed: int) -> Iterator[Array]:
    """Yield the scores of studies, with random numbers that depend on all arguments except `studies`."""
    rng = np.random.default_rng((seed, methods, seeds, *kind.encode(), *repr(name).encode()))
    for _ in range(studies):
        yield scores(rng, kind, methods, seeds)


def null_rates(kind: str, methods: int, seeds: int, studies: int, seed: int = 0) -> Rates:
    """Return the rates of studies of methods with equal means; without the last method for "one diverged"."""
    left_out = f"method-{methods - 1}" if kind == "one diverged" else ""
    rows = []
    for values in draws(("null",), kind, methods, seeds, studies, seed):
        found = judge(results(values))
        pairs = [pair for pair in found.pairs if left_out not in (pair.better, pair.other)]
        means = [method.mean for method in found.methods if method.name != left_out and method.mean]
        rows.append(
            (
                is_claim(found.headline, left_out),
                any(CLAIM.search(pair.sentence) for pair in pairs),
                all(pair.difference.low <= 0 <= pair.difference.high for pair in pairs),
                np.mean([not mean.excludes(true_mean(kind)) for mean in means]),
                any(pair.difference.excludes(0) != (pair.p is not None and pair.p <= 0.05) for pair in found.pairs),
            )
        )
    return Rates(*(100 * np.array(rows, dtype=float).mean(0)))


def is_claim(headline: str, left_out: str = "") -> bool:
    """Return whether a headline states a difference of methods, except that one method is worse."""
    if left_out:
        headline = headline.replace(f"; {left_out} is worse than all of them", "").replace(
            f"; {left_out} is worse than both", ""
        )
    return CLAIM.search(headline) is not None


def looks_rate(kind: str, methods: int, studies: int, seed: int = 0) -> float:
    """Return the share of group-sequential studies, in percent, whose text states a difference at any look.

    A study ends at the first look that decides all pairs.
    """
    false = 0
    for values in draws(("looks",), kind, methods, LOOKS[-1], studies, seed):
        claims = False
        for look in LOOKS:
            part = values[:, :look]
            claims |= differs(judge(results(part, looks=LOOKS)))
            if is_decided(tuple(map(tuple, part)), look_alpha(LOOKS, look), None):
                break
        false += claims
    return 100 * false / studies


def differs(found: Findings) -> bool:
    """Return whether headline or sentences state a difference."""
    return is_claim(found.headline) or any(CLAIM.search(pair.sentence) for pair in found.pairs)


def added_seeds_rate(difference: float, methods: int, seeds: int, studies: int, seed: int = 0) -> tuple[float, float]:
    """Return how often the number of additional seeds leads to a verdict.

    The first method is better by `difference`. For each study with its first pair undecided and at most 200 further
    seeds, a second study with this number of seeds added is drawn.

    Returns:
        Percentage of second studies with a verdict on the pair, and the median number of additional seeds.
    """
    rng = np.random.default_rng((seed, methods, seeds, round(1e6 * difference)))
    found, numbers = [], []
    for _ in range(studies):
        values = scores(rng, "Gaussian", methods, 220)
        values[0] += difference
        more = first_pair(values[:, :seeds]).more_seeds
        if more is None or more > 200:
            continue
        numbers.append(more)
        found.append(first_pair(values[:, : seeds + more]).verdict != "undecided")
    return (100 * float(np.mean(found)), float(np.median(numbers))) if found else (math.nan, math.nan)


def repeated_rate(methods: int, seeds: int, studies: int, seed: int = 0) -> float:
    """Return the share of studies of equal methods, in percent, with a difference before or after one addition.

    All methods get the smallest number of additional seeds of any pair, without a plan of looks.
    """
    rng = np.random.default_rng((seed, methods, seeds))
    false = 0
    for _ in range(studies):
        values = scores(rng, "Gaussian", methods, seeds + 200)
        found = judge(results(values[:, :seeds]))
        claims = differs(found)
        more = min((pair.more_seeds for pair in found.pairs if pair.more_seeds is not None), default=0)
        if not claims and more <= 200:
            claims = differs(judge(results(values[:, : seeds + more])))
        false += claims
    return 100 * false / studies


def first_pair(values: Array):
    """Return the finding on the first two methods."""
    found = judge(results(values))
    return next(pair for pair in found.pairs if {pair.better, pair.other} == {"method-0", "method-1"})


def equivalence_rate(kind: str, methods: int, seeds: int, studies: int, seed: int = 0) -> float:
    """Return the share of studies, in percent, with a false equivalence of the first method, which differs by `MARGIN`.

    Discrete scores are rounded to fractions of 297 images after the shift.
    """
    false = 0
    for values in draws((MARGIN,), kind, methods, seeds, studies, seed):
        values[0] += MARGIN
        if kind == "discrete":
            values[0] = np.round(values[0] * IMAGES) / IMAGES
        found = judge(results(values, margin=MARGIN))
        false += any(pair.verdict == "equivalent" and "method-0" in (pair.better, pair.other) for pair in found.pairs)
    return 100 * false / studies


# ---- tables ----------------------------------------------------------------------------------------------------------


def null_table(studies: int, seed: int) -> str:
    """Return false verdicts and coverage for all kinds of scores, and two statements on all studies."""
    rows, named, contradictions = [], 0.0, 0.0
    for methods in METHODS:
        for kind in KINDS:
            if kind == "one diverged" and methods == 2:
                continue
            rates = [null_rates(kind, methods, seeds, studies, seed) for seeds in SEEDS]
            rows.append([str(methods), kind, *(f"{x.sentence:.1f} / {x.mean:.1f}" for x in rates)])
            contradictions = max(contradictions, *(x.contradictions for x in rates))
            if methods > 2:
                named = max(named, *(x.headline for x in rates))
    return (
        f"{table(['methods', 'scores', *(f'{n} seeds' for n in SEEDS)], rows, left=2)}\n\n"
        f"Headlines of 6 or 9 methods that state a difference: at most {named:.1f}.\n"
        f"Intervals that contradict their p-values: at most {contradictions:.1f}."
    )


def looks_table(studies: int, seed: int) -> str:
    """Return error rates of group-sequential studies of two methods."""
    kinds = ("Gaussian", "t", "divergence", "discrete")
    return table(kinds, [[f"{looks_rate(kind, 2, studies, seed):.1f}" for kind in kinds]], left=0)


def equivalence_table(studies: int, seed: int) -> str:
    """Return rates of false equivalence of two methods."""
    rows = [
        [kind, *(f"{equivalence_rate(kind, 2, seeds, studies, seed):.1f}" for seeds in SEEDS)]
        for kind in ("Gaussian", "t", "skewed", "discrete")
    ]
    return table(["scores", *(f"{n} seeds" for n in SEEDS)], rows)


def seeds_table(studies: int, seed: int) -> str:
    """Return the verdicts after the additional seeds."""
    rows = []
    for methods in (2, 6):
        for seeds in (5, 10):
            found = [added_seeds_rate(d * NOISE, methods, seeds, studies, seed) for d in (0, 0.5, 1, 2)]
            rows.append([str(methods), str(seeds), *(f"{rate:.0f} % ({more:.0f})" for rate, more in found)])
    heads = ["methods", "seeds", "no difference", "half a standard deviation of a method", "one", "two"]
    return table(heads, rows, left=0)


def repeated_table(studies: int, seed: int) -> str:
    """Return error rates of seeds added once without a plan."""
    rows = [[str(m), *(f"{repeated_rate(m, n, studies, seed):.1f}" for n in (5, 10))] for m in (2, 6)]
    return table(["methods", "5 seeds", "10 seeds"], rows, left=0)


class Table(NamedTuple):
    """A table, and the number of studies of each condition."""

    title: str
    made: Callable[[int, int], str]
    studies: int


TABLES = {
    "null": Table("Any false verdict / coverage of the intervals of single means", null_table, 300),
    "looks": Table("Any false verdict at the looks 5, 10, 20", looks_table, 300),
    "equivalence": Table("False equivalence at a margin of 2 standard deviations", equivalence_table, 300),
    "seeds": Table("Verdict on an undecided pair after the additional seeds (median number)", seeds_table, 200),
    "repeated": Table("Any false verdict if seeds are added once without a plan", repeated_table, 1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Error rates of the whole judgement of comparisons.")
    parser.add_argument("--studies", type=int, help="studies of each condition (default: as in docs/statistics.md)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TABLES), help="names of tables, separated by commas")
    given = parser.parse_args()
    start = time.process_time()
    print(f"{stamp()} Numbers in percent.\n")
    for name in given.only.split(","):
        title, made, studies = TABLES[name]
        studies = given.studies or studies
        print(f"{title}; {studies} studies of each condition\n\n{made(studies, given.seed)}\n", flush=True)
    print(f"{time.process_time() - start:.0f} s of CPU time")


if __name__ == "__main__":
    main()
