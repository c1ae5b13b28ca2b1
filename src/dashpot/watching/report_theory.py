"""Sentences on measurements and predictions: curvature and temperature."""

from __future__ import annotations

import math
from typing import Any

from dashpot.analysis.wording import count, number, percent
from dashpot.watching.report_noise import DOMINANT, noise_rows
from dashpot.watching.report_rows import finite, newest, reason_of, step_words, value_at
from dashpot.watching.report_sentence import Sentence
from dashpot.watching.report_trend import loss_trend
from dashpot.watching.series import WatchRecord

ABSENT = "There is no curvature yet: it needs `closure` in `watcher.observe`, and time within the budget."
UNSTABLE = 1.1
"""Ratio of curvature to edge above which a step is unstable; ratios around 1 belong to an equilibrium."""
UNSTABLE_MINIBATCH = 2.0
"""The same for minibatches, whose largest eigenvalue is above that of all examples on average."""
AGREEING = 0.75
"""Ratio of measured to predicted fluctuation that agrees, up to twice this value."""
FAR_BELOW = 0.5
"""Ratio of curvature to edge below which a considerably higher rate is stable."""
LARGEST_RAISE = 3.0


def curvature(record: WatchRecord) -> Sentence | str:
    """Return the distance of the learning rate from the edge of stability."""
    row = newest(record, "curvature", "ratio", "edge")
    if row is None:
        return reason_of(record, "curvature", ABSENT)
    ratio, edge = row["ratio"], row["edge"]
    limit = UNSTABLE if row.get("full_batch") else UNSTABLE_MINIBATCH
    noise_ratio = _noise_ratio(record)
    finding, start, action = _place(ratio, limit, noise_ratio)
    lowest = FAR_BELOW if noise_ratio > DOMINANT else 1.0
    if lowest < ratio <= limit and not _falls(record):
        finding, action = "above edge", "unless the loss falls, try half of it"
    text = f"{start}: rate x curvature {number(ratio * edge)}, stable below {number(edge)}"
    return Sentence("curvature", finding, text, ratio, _curvature_confidence(record, row), action)


def _falls(record: WatchRecord) -> bool:
    """Return whether the loss falls, or is unknown."""
    found = loss_trend(record)
    return isinstance(found, str) or found.high < 0


def _noise_ratio(record: WatchRecord) -> float:
    """Return noise scale over batch size, 0 if unknown."""
    rows = noise_rows(record)
    return rows[-1].scale / rows[-1].batch if rows else 0.0


def _place(ratio: float, limit: float, noise_ratio: float) -> tuple[str, str, str]:
    """Return the finding, the start of the sentence and the action.

    Args:
        ratio: Curvature over edge.
        limit: Ratio above which the step is unstable.
        noise_ratio: Noise scale over batch size; gradient noise divides the best learning rate by 1 + noise_ratio.
    """
    if ratio <= 0:
        return "below edge", "No measured direction has a positive curvature", "a higher learning rate is stable here"
    times = number(max(ratio, 1 / ratio), 2)
    if ratio > limit:
        action = f"divide it by at least {times}, unless the loss keeps falling"
        return "unstable", f"The learning rate is {times} times above the edge of stability", action
    if ratio >= FAR_BELOW:
        return "at edge", f"The learning rate is at {percent(ratio)} of the edge of stability", "do not raise it"
    start = f"The learning rate is {times} times below the edge of stability"
    if 1 / ratio < 2 * (1 + noise_ratio):
        return "at edge", start, "keep it: at this batch size, gradient noise limits the rate before stability does"
    first = number(min(LARGEST_RAISE, math.sqrt(1 / ratio), 1 / ratio / (1 + noise_ratio)), 2)
    return "below edge", start, f"a rate up to {times} times as high is stable here; try {first} times"


def _curvature_confidence(record: WatchRecord, row: dict[str, Any]) -> str:
    parts = [step_words(record, row["step"])]
    examples, complete = finite(row.get("examples")), bool(row.get("full_batch"))
    if examples is not None:
        of = "all" if complete else "minibatch of"
        parts.append(f"{of} {count(examples, 'example', digits=4)}")
    error = _relative_residual(row)
    if row.get("converged") is False:
        parts.append("a lower bound")
    elif error is not None:
        parts.append(f"eigenvalue within {percent(error)}")
    if examples is not None and not complete:
        parts.append("too high on average: the value of all examples is lower")
    return ", ".join(parts)


def _relative_residual(row: dict[str, Any]) -> float | None:
    """Return the bound of the error of the largest eigenvalue, relative to it."""
    first = [finite(values[0]) for values in (row.get("residuals"), row.get("eigenvalues")) if values]
    if len(first) < 2 or first[0] is None or not first[1]:
        return None
    return abs(first[0] / first[1])


def temperature(record: WatchRecord) -> Sentence | str:
    """Return the predicted and the measured fluctuation of the loss."""
    row = newest(record, "temperature", "predicted", "measured")
    if row is None:
        absent = "The fluctuation of the loss has no prediction: it needs noise scale, curvature and a steady loss."
        return reason_of(record, "temperature", absent)
    predicted, measured, excess = row["predicted"], row["measured"], value_at(row, "excess")
    ratio = measured / predicted if predicted else None
    text = f"The loss fluctuates by {number(measured)} around its trend, predicted {number(predicted)}"
    if excess is not None:
        text += f"; the fluctuation of the weights adds {number(excess)} to its mean"
    return Sentence("temperature", "temperature", text, ratio, _losses(row), _temperature_action(ratio))


def _losses(row: dict[str, Any]) -> str:
    losses = finite(row.get("steps"))
    counted = [] if losses is None else [count(losses, "loss", "losses", digits=4)]
    return ", ".join([f"step {row['step']}", *counted])


def _temperature_action(ratio: float | None) -> str:
    """Return the action for a ratio of measurement to prediction, which is an upper bound."""
    if ratio is None or ratio > AGREEING * 2:
        return "gradient noise does not explain it; examine the data order and lower the learning rate"
    if ratio < AGREEING:
        return "the prediction is an upper bound; a lower learning rate at the end of the run reduces both"
    return "theory and measurement agree; half the learning rate halves the addition"
