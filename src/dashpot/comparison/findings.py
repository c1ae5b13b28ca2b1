"""Findings of a comparison: the statistics of its results, as plain data for tables and pages."""

from __future__ import annotations

from dataclasses import dataclass

from dashpot.comparison.results import Curve, Results
from dashpot.stats import Interval


@dataclass(frozen=True)
class MethodFinding:
    """Findings on one method.

    Attributes:
        name: Name of the method.
        mean: Mean score with its 95 % interval; infinite limits for one seed; None without a score.
        sd: Standard deviation over seeds (n - 1); None below two seeds.
        scores: Scores by seed, in the order of `Findings.seeds`; NaN if missing.
        group: Number of the tie group, from 1 (best); methods in one group are not separated from its best method.
            None without a score.
        steps_to_target: Median steps to target by Kaplan-Meier; inf if at most half of the runs reach it; None without
            a target.
        reached: Number of runs that reached the target.
        survival: Share of runs that have not reached the target, over steps; None without a target.
        step_ratio: Steps to target relative to the reference method, with interval; None if not available.
        counts: Numbers of runs by status.
        best_of: Expected best validation score after k = 1, 2, ... trials: the curve, its lower and its upper limit;
            None without tuning.
        sensitivity: For each factor of the learning rate, the change of the score relative to the tuned rate.
        cost: Means by name: "cpu_s", "wall_s", "memory_bytes", "state_bytes", "steps"; missing if unknown.
    """

    name: str
    mean: Interval | None
    sd: float | None
    scores: tuple[float, ...]
    group: int | None
    steps_to_target: float | None
    reached: int
    survival: Curve | None
    step_ratio: Interval | None
    counts: dict[str, int]
    best_of: tuple[Curve, Curve, Curve] | None
    sensitivity: dict[float, Interval]
    cost: dict[str, float]


@dataclass(frozen=True)
class PairFinding:
    """Comparison of two methods.

    Attributes:
        better: Name of the method with the better mean, or of the first method of a tie.
        other: Name of the other method.
        difference: Score of `better` minus score of `other`, with the simultaneous 95 % interval.
        p: P-value, adjusted for all pairs; None below two seeds.
        verdict: "better", "equivalent" or "undecided".
        more_seeds: For "undecided", the approximate number of additional seeds for a verdict; None if unknown.
        sentence: Sentence that states the verdict.
        log_rank_p: P-value of the log-rank test of the steps to target, adjusted for all pairs; None if not available.
    """

    better: str
    other: str
    difference: Interval
    p: float | None
    verdict: str
    more_seeds: int | None
    sentence: str
    log_rank_p: float | None = None


@dataclass(frozen=True)
class Findings:
    """Statistics of one comparison.

    Attributes:
        results: The results.
        seeds: Seeds with at least one score, in order; the number of pairs of each difference.
        methods: Findings by method from best to worst; methods without a score are last. This is the order of methods
            in every table and chart.
        pairs: Findings on all pairs, in the order of `methods`.
        headline: The result in one or two sentences.
        notes: Remarks that a reader needs: diverged, failed or missing runs, a single seed, no test data, ...
        reference: Name of the method that step ratios refer to, or None.
    """

    results: Results
    seeds: tuple[int, ...]
    methods: tuple[MethodFinding, ...]
    pairs: tuple[PairFinding, ...]
    headline: str
    notes: tuple[str, ...] = ()
    reference: str | None = None
