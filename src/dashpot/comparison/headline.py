"""The result of a comparison in one or two sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashpot.comparison.findings import MethodFinding, PairFinding
from dashpot.comparison.results import Results
from dashpot.comparison.score_text import metric_text, names_text, score_text
from dashpot.utils.format import counted


def headline(results: Results, methods: Sequence[MethodFinding], pairs: Sequence[PairFinding]) -> str:
    """Return the result in one or two sentences.

    Args:
        results: Results of the comparison.
        methods: Findings on the methods, from best to worst.
        pairs: Findings on the pairs of methods.
    """
    scored = [method for method in methods if method.mean is not None]
    if not scored:
        return "No run has a score yet." if _may_continue(results) else "No run has a score: there is no result."
    if not any(run.status == "done" for run in results.runs):
        return "Every run with a score diverged: there is no result."
    if len(scored) == 1:
        return _single(results, scored[0])
    if not any(math.isfinite(pair.difference.low) for pair in pairs):
        return _without_intervals(results, scored)
    best = [method for method in scored if method.group == 1]
    if len(best) == 1:
        return _one_best(results, scored, pairs)
    return _tied(results, scored, best, pairs)


def _may_continue(results: Results) -> bool:
    ended = sum(run.status != "unfinished" for run in results.runs)
    return ended < len(results.methods) * len(results.seeds)


def _single(results: Results, method: MethodFinding) -> str:
    assert method.mean is not None
    known = sum(math.isfinite(score) for score in method.scores)
    text = f"{method.name}: {metric_text(results.rule)} {score_text(method.mean.estimate)}"
    limits = (score_text(limit, like=method.mean.estimate) for limit in (method.mean.low, method.mean.high))
    if known > 1:
        text += " (95 % interval {} to {}, {})".format(*limits, counted(known, "seed"))
    others = len(results.methods) - 1
    missing = "" if not others else " The other methods have" if others > 1 else " The other method has"
    return f"{text}.{missing + ' no score.' if missing else ''}"


def _without_intervals(results: Results, scored: Sequence[MethodFinding]) -> str:
    best = scored[0]
    assert best.mean is not None
    return (
        f"Undecided: the methods share fewer than two seeds. {best.name} has the best {metric_text(results.rule)}, "
        f"{score_text(best.mean.estimate)}."
    )


def _one_best(results: Results, scored: Sequence[MethodFinding], pairs: Sequence[PairFinding]) -> str:
    best, following = scored[0], scored[1]
    assert best.mean is not None
    pair = next(pair for pair in pairs if {pair.better, pair.other} == {best.name, following.name})
    like = best.mean.estimate
    lead, low, high = sorted_limits(pair, like)
    return (
        f"{best.name} is best: {metric_text(results.rule)} {score_text(like)}, ahead of the next method, "
        f"{following.name}, by {lead} (95 % interval {low} to {high})."
    )


def sorted_limits(pair: PairFinding, like: float) -> tuple[str, str, str]:
    """Return the size of a difference and its limits as text; negative limits belong to the other direction.

    Args:
        pair: The pair of methods.
        like: Score whose size determines the format.
    """
    sign = -1.0 if pair.difference.estimate < 0 else 1.0
    limits = sorted((sign * pair.difference.low, sign * pair.difference.high))
    lead, low, high = (score_text(value, like) for value in (abs(pair.difference.estimate), *limits))
    return lead, low, high


def _tied(
    results: Results, scored: Sequence[MethodFinding], best: Sequence[MethodFinding], pairs: Sequence[PairFinding]
) -> str:
    seeds = max(sum(math.isfinite(score) for score in method.scores) for method in scored)
    names = {method.name for method in best}
    top = [pair for pair in pairs if pair.better in names and pair.other in names]
    tied = names_text([method.name for method in best])
    if all(pair.verdict == "equivalent" for pair in top):
        margin = score_text(results.rule.margin or 0.0, like=scored[0].mean.estimate if scored[0].mean else None)
        text = f"{tied} are equally good: their {metric_text(results.rule)} differs by less than {margin}"
    else:
        text = f"No single best method: {tied} are tied within this study"
    return f"{text} ({counted(seeds, 'seed')}){_worse(scored, names, pairs)}."


def _worse(scored: Sequence[MethodFinding], best: set[str], pairs: Sequence[PairFinding]) -> str:
    """Return a clause on the methods that are worse than every method of the best group."""
    beaten: dict[str, int] = {}
    for pair in pairs:
        if pair.better in best and pair.other not in best and pair.verdict == "better":
            beaten[pair.other] = beaten.get(pair.other, 0) + 1
    worse = [method.name for method in scored if beaten.get(method.name) == len(best)]
    if not worse:
        return ""
    verb = "is" if len(worse) == 1 else "are"
    return f"; {names_text(worse)} {verb} worse than {'both' if len(best) == 2 else 'all of them'}"
