"""The measured cost of watching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from dashpot.watching.probe import Moment, Probe

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher


class CostProbe(Probe):
    """Share of the time of the steps that each kind of measurement takes, so far.

    Rows: step, share, by_kind {kind: share}, steps, waiting (kinds that wait for credit), and note if measurements are
    made less often than intended.
    """

    kind: ClassVar[str] = "cost"
    always: ClassVar[bool] = True
    needs_gradients: ClassVar[bool] = False
    prior = 0.001

    def __init__(self, every: int) -> None:
        self.every = every

    def after_step(self, watcher: Watcher, moment: Moment) -> None:
        add_cost(watcher, moment.step)


def add_cost(watcher: Watcher, step: int) -> None:
    """Add a row with the cost until now."""
    last = watcher.record.rows("cost").last
    if watcher.budget.elapsed and (last is None or last["step"] != step):
        note = {"note": " ".join(watcher.notes)} if watcher.notes else {}
        watcher.record.add("cost", {"step": step, **cost(watcher), **note})


def cost(watcher: Watcher) -> dict[str, Any]:
    """Return the shares of the time of the training steps."""
    budget = watcher.budget
    by_kind = {kind: seconds / budget.elapsed for kind, seconds in budget.spent.items()} if budget.elapsed else {}
    return {"share": budget.used, "by_kind": by_kind, "steps": budget.steps_done, "waiting": list(budget.waiting)}
