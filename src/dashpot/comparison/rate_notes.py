"""Remarks on methods that are better at another learning rate than at the selected one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from dashpot.comparison.findings import MethodFinding
from dashpot.comparison.results import Results
from dashpot.stats import Interval
from dashpot.stats.verdicts import decimals, number
from dashpot.utils.format import counted

CLEAR = 3.0
"""Standard deviations over seeds above which a change is clear without an interval."""


def rate_notes(results: Results, methods: Sequence[MethodFinding]) -> Iterator[str]:
    """Yield a remark on each method whose score is better at another learning rate.

    The change must exceed the margin and one standard deviation over seeds; with that, its interval must exclude 0, or
    the change must exceed three standard deviations. The standard deviation is that of the method or the median of all
    methods, whichever is larger. Without one, which needs two seeds, the change must exceed three margins.

    Args:
        results: Results of the comparison.
        methods: Findings on the methods, from best to worst.
    """
    spreads = [method.sd for method in methods if method.sd is not None and not method.counts.get("diverged")]
    common = median(spreads) if spreads else None
    for method in methods:
        better = {
            factor: change
            for factor, change in method.sensitivity.items()
            if results.rule.sign * change.estimate > 0 and _is_clear(change, results.rule.margin, method.sd, common)
        }
        if better:
            factor = max(better, key=lambda key: results.rule.sign * better[key].estimate)
            yield _sentence(results, method.name, factor, better[factor])


def _is_clear(change: Interval, margin: float | None, own: float | None, common: float | None) -> bool:
    size = abs(change.estimate)
    known = [value for value in (own, common) if value is not None]
    if not known:
        return bool(margin) and size > CLEAR * (margin or math.inf)
    return size > max(margin or 0.0, *known) and (change.excludes(0.0) or size > CLEAR * max(known))


def _sentence(results: Results, name: str, factor: float, change: Interval) -> str:
    times, kind = (factor, "larger") if factor > 1 else (1 / factor, "smaller")
    size = abs(change.estimate)
    seeds = len({run.seed for run in results.rate_runs if run.method == name and run.factor == factor})
    gain = f"better by {number(size, decimals(size))} on {counted(seeds, 'seed')}"
    cure = "raise --budget" if results.trials else "tune it with --budget"
    return f"The learning rate of {name} is not tuned: a {times:.3g} times {kind} rate is {gain}; {cure}."
