"""The result of a comparison in one or two sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashpot.comparison.findings import MethodFinding, PairFinding
from dashpot.comparison.results import Results
from dashpot.comparison.score_text import mean_text, metric_text, names_text, score_decimals
from dashpot.stats.interval import reverse
from dashpot.stats.verdicts import interval_text
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
        return _without_scores(results)
    if not any(run.status == "done" for run in results.runs):
        return "Every run with a score diverged: there is no result."
    if len(scored) == 1:
        return _single(results, scored[0])
    if not any(math.isfinite(pair.difference.low) for pair in pairs):
        best = f"{scored[0].name} has the best {_score(results, scored, scored[0])}"
        return f"Undecided: the methods share fewer than two seeds. {best}."
    return _ranked(results, scored, pairs)


def _without_scores(results: Results) -> str:
    ended = sum(run.status != "unfinished" for run in results.runs)
    if ended < len(results.methods) * len(results.seeds):
        return "No run has a score yet."
    return "No run has a score: there is no result."


def _score(results: Results, scored: Sequence[MethodFinding], method: MethodFinding) -> str:
    """Return the metric and the mean of a method."""
    assert method.mean is not None
    return f"{metric_text(results.rule)}, {mean_text(method.mean, score_decimals(scored))[0]}"


def _single(results: Results, method: MethodFinding) -> str:
    assert method.mean is not None
    known = sum(math.isfinite(score) for score in method.scores)
    text = f"{method.name}: {metric_text(results.rule)} {mean_text(method.mean, score_decimals([method]))[0]}"
    if known > 1:
        text = f"{method.name}: {metric_text(results.rule)} {interval_text(method.mean)}, {counted(known, 'seed')}"
    others = len(results.methods) - 1
    rest = {0: "", 1: " The other method has no score."}.get(others, " The other methods have no score.")
    return f"{text}.{rest}"


def _ranked(results: Results, scored: Sequence[MethodFinding], pairs: Sequence[PairFinding]) -> str:
    """Return the headline for methods with intervals.

    The leading methods are those of the best tie group before the first method of a different group. Methods of the
    best group behind them have scores that vary too much for a separation.
    """
    count = next((k for k, method in enumerate(scored) if method.group != 1), len(scored))
    leading, rest = scored[:count], scored[count:]
    undecided = [method.name for method in rest if method.group == 1]
    if count > 1:
        return _tied(results, leading, scored, undecided, pairs)
    best = leading[0].name
    pair = next(pair for pair in pairs if {pair.better, pair.other} == {best, rest[0].name})
    lead = pair.difference if pair.difference.estimate >= 0 else reverse(pair.difference)
    claim = f"{best} is best" + (f", undecided only against {names_text(undecided)}" if undecided else "")
    text = f"{claim}: {_score(results, scored, leading[0]).replace(',', '')}, ahead of the next method, {rest[0].name}"
    return f"{text}, by {interval_text(lead)}."


def _tied(
    results: Results,
    leading: Sequence[MethodFinding],
    scored: Sequence[MethodFinding],
    undecided: Sequence[str],
    pairs: Sequence[PairFinding],
) -> str:
    seeds = counted(max(sum(math.isfinite(score) for score in method.scores) for method in scored), "seed")
    names = [method.name for method in leading]
    top = [pair for pair in pairs if pair.better in names and pair.other in names]
    if all(pair.verdict == "equivalent" for pair in top):
        text = f"{names_text(names)} are equivalent in {metric_text(results.rule)} ({seeds})"
    else:
        text = f"No single best method: {names_text(names)} are not separated ({seeds})"
    if undecided:
        verb = "is" if len(undecided) == 1 else "are"
        text += f"; {names_text(undecided)} {verb} undecided"
    return f"{text}{_worse(scored, set(names), pairs)}."


def _worse(scored: Sequence[MethodFinding], leading: set[str], pairs: Sequence[PairFinding]) -> str:
    """Return a clause on the methods that are worse than every leading method."""
    beaten: dict[str, int] = {}
    for pair in pairs:
        if pair.better in leading and pair.verdict == "better":
            beaten[pair.other] = beaten.get(pair.other, 0) + 1
    worse = [method.name for method in scored if beaten.get(method.name) == len(leading)]
    if not worse:
        return ""
    verb, all_of = "is" if len(worse) == 1 else "are", "both" if len(leading) == 2 else "all of them"
    return f"; {names_text(worse)} {verb} worse than {all_of}"
