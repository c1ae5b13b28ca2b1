"""The sentences of a report, in the order of their importance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from statistics import median
from typing import NamedTuple

from dashpot.analysis.wording import count, number, percent
from dashpot.watching import report_faults, report_noise, report_theory
from dashpot.watching.report_rows import finite, is_old, newest_by_tensor, reason_of, value_at
from dashpot.watching.report_sentence import FAULT, Sentence
from dashpot.watching.report_trend import Trend, loss_trend
from dashpot.watching.series import WatchRecord

FLAT = 0.1
"""Largest change of a flat loss, within its interval."""
CLIPPED = 0.9
"""Factor of clipping below which it affects the learning rate noticeably."""
ALMOST_ALL = 0.99
"""Relative fall of the loss from which its size is not stated more precisely."""
TOLERANCE = 1.1
"""Ratio of cost to budget that still meets the budget."""
VOID = ("noise", "below edge", "above edge", "at edge", "flat loss", "balanced noise", "temperature")
"""Findings whose advice assumes a run without faults."""
OTHER_RATE = 2.0
"""Ratio of applied to predicted rate, or its inverse, from which steps differ from the settings."""


class Found(NamedTuple):
    """Sentences, the most important first, and the reason for each topic without a sentence."""

    sentences: tuple[Sentence, ...]
    missing: Mapping[str, str]


def sentences_of(record: WatchRecord) -> Found:
    """Return the sentences on a record."""
    results = {topic: maker(record) for topic, maker in MAKERS.items()}
    sentences = without_void_advice([result for result in results.values() if isinstance(result, Sentence)])
    missing = {topic: result for topic, result in results.items() if isinstance(result, str)}
    return Found(tuple(sorted(sentences, key=lambda sentence: -sentence.importance)), missing)


def without_void_advice(sentences: Iterable[Sentence]) -> list[Sentence]:
    """Return the sentences; if there are faults, without advice that assumes a run without faults."""
    found = list(sentences)
    if all(sentence.importance < FAULT for sentence in found):
        return found
    return [_after_fault(item) for item in found]


def _after_fault(sentence: Sentence) -> Sentence:
    if sentence.finding == "falling loss":
        return replace(sentence, action="the faults have not stopped it")
    if sentence.finding not in VOID and sentence.topic != "noise":
        return sentence
    return replace(sentence, finding="after fault", action="resolve the faults first, then measure again")


def loss(record: WatchRecord) -> Sentence | str:
    """Return the change of the loss over the last half of the run."""
    found = loss_trend(record)
    if isinstance(found, str):
        return found
    finding, verb, action = _direction(found)
    text = f"{verb} over the last {count(found.steps, 'step', digits=4)}, now {number(found.level)}"
    interval = f"95 % interval {_signed(found.low)} to {_signed(found.high)}"
    confidence = f"{interval}, {count(found.samples, 'measurement')}"
    return Sentence("loss", finding, text, found.change, confidence, action)


def _direction(found: Trend) -> tuple[str, str, str]:
    """Return the finding, the start of the sentence and the action of a trend."""
    size = percent(abs(found.change)) if found.change > -ALMOST_ALL else f"more than {percent(ALMOST_ALL)}"
    if found.low > 0:
        return "rising loss", f"The loss rises by {size}", "lower the learning rate"
    if found.high < 0:
        return "falling loss", f"The loss falls by {size}", "continue"
    if max(found.high, -found.low) > FLAT:
        return "uncertain", "Noise hides the trend of the loss", "measure longer"
    return "flat loss", "The loss is flat", "lower the learning rate to reduce its fluctuation, or stop"


def _signed(share: float) -> str:
    """Format a change in percent with its sign.

    >>> _signed(0.012), _signed(-0.5)
    ('+1.2 %', '-50 %')
    """
    return f"{'+' if share >= 0 else '-'}{percent(abs(share))}"


def agreement(record: WatchRecord) -> Sentence | str:
    """Return the share of elements whose momentum and gradient have the same sign."""
    shares = newest_by_tensor(record, "dynamics", "agreement")
    last = record.rows("dynamics").last
    if not shares or last is None:
        return reason_of(record, "dynamics", "Momentum and gradient were not compared.")
    if is_old(record, last["step"]):
        return f"Momentum and gradient were last compared at step {last['step']}."
    middle = median(shares.values())
    text = f"Momentum and gradient have the same sign in {percent(middle)} of the elements"
    confidence = (
        f"median of {count(len(shares), 'tensor')}, step {last['step']}; 50 % for pure noise, less if steps overshoot"
    )
    return Sentence("agreement", "agreement", text, middle, confidence, "no change is necessary")


def effective_rate(record: WatchRecord) -> Sentence | str:
    """Return the learning rate that steps apply, compared with the one in the settings."""
    found = {key: newest_by_tensor(record, "dynamics", key, "rates") for key in ("predicted", "applied", "clip")}
    last = record.rows("dynamics").last
    if not found["applied"] or not found["predicted"] or last is None:
        absent = "The effective learning rate is unknown: it needs a known update rule, and time within the budget."
        return reason_of(record, "dynamics", absent)
    if is_old(record, last["step"]):
        return f"The effective learning rate was last measured at step {last['step']}."
    moving = [rate for rate in found["applied"].values() if rate]
    if not moving:
        return "There is no effective learning rate: no measured element has moved."
    applied, predicted = median(moving), median(found["predicted"].values())
    text = f"The effective learning rate is {number(applied)}, predicted {number(predicted)} from the settings"
    confidence = f"median of {count(len(moving), 'tensor')}, step {last['step']}"
    clip = median(found["clip"].values()) if found["clip"] else 1.0
    if clip < CLIPPED:
        action = f"clipping scales gradients by {number(clip, 2)}: raise its limit, or count on the smaller rate"
        return Sentence("rate", "clipped", text, applied, confidence, action)
    if predicted > 0 and not 1 / OTHER_RATE <= applied / predicted <= OTHER_RATE:
        action = "examine frozen or stalled tensors, and code that changes gradients or weights next to the optimizer"
        return Sentence("rate", "other rate", text, applied, confidence, action)
    return Sentence("rate", "rate", text, applied, confidence, "no change is necessary")


def cost(record: WatchRecord) -> Sentence | str:
    """Return the time of measurements relative to that of the steps."""
    last, budget = record.rows("cost").last, finite(record.header.get("budget"))
    share = finite(last.get("share")) if last is not None else None
    if last is None or share is None or budget is None:
        return "The cost has not been measured yet."
    limit = "without a limit" if budget >= 1 else f"budget {percent(budget)}"
    text = f"Watching takes {percent(share)} of the time of the steps, {limit}"
    confidence = f"measured until step {last['step']}"
    if share <= TOLERANCE * budget or budget >= 1:
        return Sentence("cost", "cost", text, share, confidence, "no change is necessary")
    hooks = value_at(last, "by_kind.hooks") or 0.0
    action = "the share falls in longer runs, as measurements at the start take credit in advance"
    if hooks > budget / 2:
        action = f"raise `budget`: steps are so short that the hooks alone take {percent(hooks)}"
    return Sentence("cost", "over budget", text, share, confidence, action)


MAKERS: Mapping[str, Callable[[WatchRecord], Sentence | str]] = {
    "non-finite": report_faults.non_finite,
    "warnings": report_faults.warnings,
    "curvature": report_theory.curvature,
    "noise": report_noise.noise,
    "loss": loss,
    "dead": report_faults.dead,
    "stalled": report_faults.stalled,
    "updates": report_faults.updates,
    "temperature": report_theory.temperature,
    "rate": effective_rate,
    "agreement": agreement,
    "cost": cost,
}
"""Functions that return the sentence on a topic, or the reason for its absence."""
FAULTS = ("warnings", "non-finite", "dead", "stalled")
"""Topics without a sentence in runs without faults."""
ABSENCES: Mapping[str, str] = {"loss": "trend", "curvature": "edge of stability", "noise": "noise scale"}
"""Topics whose absence is printed, with the name of the missing number."""
