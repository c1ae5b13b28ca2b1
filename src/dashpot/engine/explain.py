"""What the engine does with an optimizer's tensors, in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dashpot.engine.dispatch import LARGE, LOOKS, MANY, START, Engine
from dashpot.engine.roster import Roster, Table
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from dashpot.optim import Optimizer

__all__ = ["Explanation", "explain_engine"]


class Explanation(NamedTuple):
    """One line for each set of tensors that share a fate, and the rule that chose."""

    mode: str
    rows: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([f"engine={self.mode!r}: {_RULES[self.mode]}", *(f"  {row}" for row in self.rows)])


_RULES = {
    "eager": "every operation by itself, one tensor at a time",
    "compiled": "kernels, compiled before the first step where the cache has none",
    "auto": (
        f"kernels from the first step on for {LARGE} elements or {MANY} tensors or more; for fewer, eager at first, "
        f"a compiler beside it from step {START}, and kernels from step {LOOKS} on"
    ),
}


def explain_engine(optimizer: Optimizer) -> Explanation:
    """Which engine steps which tensors of an optimizer, and why.

    optimizer
        a dashpot optimizer; before its first step only the rule is known.

    Raises `ArgumentError` for anything else.

    >>> import torch, dashpot as dp
    >>> w = torch.zeros(3, requires_grad=True)
    >>> opt = dp.AdamW([w], engine="eager")
    >>> w.grad = torch.ones(3); opt.step()
    >>> dp.explain_engine(opt)
    engine='eager': every operation by itself, one tensor at a time
      group 0: 1 tensor, eager: engine='eager' was asked for
    """
    stepper, engine = getattr(optimizer, "_stepper", None), getattr(optimizer, "_engine", None)
    if stepper is None or not isinstance(engine, Engine):
        raise ArgumentError(f"explain_engine: expected a dashpot optimizer, got {type(optimizer).__name__}.")
    rows = [row for index, roster in sorted(stepper.rosters.items()) for row in _rows(index, roster, engine)]
    return Explanation(engine.mode, tuple(rows) or ("no step was taken yet",))


def _rows(index: int, roster: Roster, engine: Engine) -> list[str]:
    rows = [f"group {index}: {_counted(len(t.positions))}, {_fate(t, engine)}" for t in roster.tables]
    reasons = Counter(roster.others.values())
    return [*rows, *(f"group {index}: {_counted(count)}, eager: {reason}" for reason, count in reasons.items())]


def _counted(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _fate(table: Table, engine: Engine) -> str:
    kernel = table.kernel
    size = f"{table.elements()} elements, {kernel.weight}"
    if engine.runs(kernel):
        return f"{size}: compiled, {kernel.bytes_per_element} bytes moved for each element"
    if kernel.failed:
        return f"{size}: eager: {kernel.failed}"
    if engine.shared:
        return f"{size}: eager: fewer than {LARGE} in all processes together"
    return f"{size}: eager until the kernel is looked for"
