"""Sentence and table on settings for a different batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashpot.analysis.result import Quantity
from dashpot.analysis.wording import joined, number

if TYPE_CHECKING:
    from dashpot.analysis.batch_plan import GroupScaling
    from dashpot.analysis.batch_scaling import BatchScaling

_RULES = {"linear": "linear rule", "sqrt": "square-root rule"}


def batch_sentences(scaled: BatchScaling, group: GroupScaling) -> list[str]:
    """Return the changed settings of a parameter group."""
    changes = [f"{item.name} to {number(item.after)}" for item in group.changes]
    sizes = f"From batch size {number(scaled.from_batch, 15)} to {number(scaled.to_batch, 15)}"
    text = f"{sizes}, the {_RULES[scaled.rule]} sets {joined(changes) or 'nothing'}"
    schedules = joined([item.name for item in scaled.schedule_changes])
    if not schedules:
        return [f"{text}."]
    length = f"divides the steps by {number(scaled.ratio)}"
    if scaled.ratio < 1:
        length = f"multiplies the steps by {number(1 / scaled.ratio)}"
    return [f"{text}; for the {schedules}, it {length}."]


def batch_rows(scaled: BatchScaling, group: GroupScaling) -> list[Quantity]:
    """Return the new value of each setting, with the reason."""
    rows = [Quantity(item.name, item.after, f"was {number(item.before, 4)}: {item.reason}") for item in group.changes]
    rows += [Quantity(item.name, item.value, f"unchanged: {item.reason}") for item in group.kept]
    rows += [Quantity(item.name, repr(item.after), item.reason) for item in scaled.schedule_changes]
    before, after = group.stable_before, group.stable_after
    if before is not None and after is not None:
        rows.append(Quantity("largest_curvature", after, f"was {number(before, 4)}: largest stable curvature"))
    return rows
