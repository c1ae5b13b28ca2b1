"""Sentences on faults: warnings, non-finite values, tensors without gradients or effective updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashpot.analysis.wording import count, joined, percent
from dashpot.watching.report_rows import (
    finite,
    last_step,
    newest,
    newest_by_tensor,
    reason_of,
    tensor_curves,
)
from dashpot.watching.report_sentence import Sentence
from dashpot.watching.series import WatchRecord

RECENT = 0.1
"""Share of the run, at its end, whose warnings are current."""
DEAD_ROWS = 3
"""Number of newest measurements in which the gradient of a dead tensor is 0."""
NOT_FINITE = "Not finite"
"""Start of the reason in rows with a number that is not finite."""
STALLED = 0.5
"""Share of elements below the resolution of the dtype from which a tensor is stalled."""
INERT = 1e-5
"""Ratio of the gradient of a tensor to that of all tensors below which it is negligible."""
LARGE_UPDATE = 0.1
"""Ratio of update to weight from which updates are large."""
_NAMES = 3  # largest number of listed tensors


def warnings(record: WatchRecord) -> Sentence | str:
    """Return the newest warning of the highest severity."""
    rows = record.rows("warning").rows
    if not rows:
        return "No warning."
    recent = [row for row in rows if row["step"] > (1 - RECENT) * last_step(record)]
    row = max(recent or rows, key=lambda row: (finite(row.get("severity")) or 0.0, row["step"]))
    others = len(rows) - 1
    text = f"Step {row['step']}: {str(row['text']).rstrip('.')}"
    confidence = ", ".join([false_alarms(row), *([count(others, "more warning")] if others else [])])
    action = str(row.get("advice") or "examine this tensor").rstrip(".")
    finding = "warning" if recent else "past warning"
    return Sentence("warnings", finding, text, float(len(rows)), confidence, action)


def false_alarms(row: Mapping[str, Any]) -> str:
    """Return the measured rate of false alarms of a warning in words."""
    rate = finite(row.get("confidence"))
    if rate is not None:
        return f"false alarms in {percent(rate)} of healthy runs"
    text = row.get("confidence")
    return text if isinstance(text, str) and text else "rate of false alarms not measured"


def non_finite(record: WatchRecord) -> Sentence | str:
    """Return the tensors whose newest norms are not finite; the record replaces such numbers by None and a reason."""
    row = record.rows("norms").last
    if row is None:
        return "No norms: the optimizer has made no step yet."
    if not str(row.get("reason") or "").startswith(NOT_FINITE):
        return f"All norms are finite at step {row['step']}."
    bad = [
        name for name, own in (row.get("tensors") or {}).items() if own.get("grad") is None or own.get("weight") is None
    ]
    text = f"Gradients or weights of {_tensors(bad)} are not finite" if bad else "The loss or a norm is not finite"
    action = "restore a checkpoint, and examine the first batch with such values; else clip gradients or lower the rate"
    return Sentence("non-finite", "non-finite", text, float(len(bad)), f"step {row['step']}", action)


def dead(record: WatchRecord) -> Sentence | str:
    """Return the tensors whose gradients were exactly 0 in the newest measurements."""
    rows = record.rows("norms").rows[-DEAD_ROWS:]
    if len(rows) < DEAD_ROWS:
        return f"Dead tensors need {DEAD_ROWS} measurements of the norms."
    names = [name for name in rows[-1].get("tensors") or () if all(_grad(row, name) == 0 for row in rows)]
    if not names:
        return "No tensor has a zero gradient."
    text = f"The gradients of {_tensors(names)} are exactly 0"
    confidence = f"the last {DEAD_ROWS} measurements, steps {rows[0]['step']} to {rows[-1]['step']}"
    action = "they do not learn: check activations, masks and initialization, or freeze them"
    alive = [row["step"] for row in record.rows("norms") if any(_grad(row, name) for name in names)]
    if alive:
        action = f"they learned until step {alive[-1]}: restart with a lower learning rate, or check activations"
    return Sentence("dead", "dead", text, float(len(names)), confidence, action)


def _grad(row: dict[str, Any], name: str) -> float | None:
    return finite((row.get("tensors") or {}).get(name, {}).get("grad"))


def stalled(record: WatchRecord) -> Sentence | str:
    """Return the tensors whose updates are mostly below the resolution of their dtype."""
    shares, row = newest_by_tensor(record, "dynamics", "stalled"), record.rows("dynamics").last
    if not shares or row is None:
        return reason_of(record, "dynamics", "Updates were not compared with the resolution of the weights.")
    names = [name for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > STALLED]
    if not names:
        return "No tensor has stalled."
    largest, listed = shares[names[0]], _tensors(names)
    text = f"Updates of {percent(largest)} of the elements are below the resolution of the dtype in {listed}"
    if all(_is_inert(record, name) for name in names):
        action = "their gradients are negligible, as for biases before a normalization, which can be omitted"
        return Sentence("stalled", "inert", text, largest, f"step {row['step']}", action)
    action = "keep these weights in float32 or with compensated rounding, or raise their learning rate"
    return Sentence("stalled", "stalled", text, largest, f"step {row['step']}", action)


def _is_inert(record: WatchRecord, name: str) -> bool:
    """Return whether the gradient of a tensor is negligible."""
    row = newest(record, "norms", "grad")
    own = None if row is None else _grad(row, name)
    return row is not None and own is not None and own <= INERT * row["grad"]


def updates(record: WatchRecord) -> Sentence | str:
    """Return the ratio of update to weight, and the tensor with the largest ratio."""
    ratios = {name: values[-1] for name, (_, values) in tensor_curves(record, "norms", "ratio").items()}
    row = newest(record, "norms", "ratio")
    if row is None or not ratios:
        return "The ratio of update to weight is unknown."
    name, largest = max(ratios.items(), key=lambda item: item[1])
    all_in_all = f"A step changes the weights by {percent(row['ratio'])}"
    text = f"{all_in_all}, those of {name} by {percent(largest)}"
    confidence = f"norms at step {row['step']}"
    matrices = {
        name: ratio for name, ratio in ratios.items() if len(record.header.get("tensors", {}).get(name) or ()) > 1
    }
    worst, most = max(matrices.items(), key=lambda item: item[1], default=(name, 0.0))
    if most > LARGE_UPDATE:  # biases start at 0, where every step is large
        name, largest = worst, most
        text = f"{all_in_all}, those of {name} by {percent(largest)}"
        action = f"lower the learning rate of {name}, or start with a warm-up"
        return Sentence("updates", "large updates", text, largest, confidence, action)
    return Sentence("updates", "updates", text, row["ratio"], confidence, "no change is necessary")


def _tensors(names: Sequence[str]) -> str:
    """Return the first names and the number of the others.

    >>> _tensors(["a"]), _tensors(["a", "b", "c", "d", "e"])
    ('a', 'a, b, c and 2 more tensors')
    """
    more = len(names) - _NAMES
    return joined([*names[:_NAMES], *([count(more, "more tensor")] if more > 0 else [])])
