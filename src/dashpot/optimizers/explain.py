"""What the engine does with an optimizer's tensors, in words."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dashpot.engine.backend import MIN_ELEMENTS, Backend
from dashpot.engine.tensor_table import KernelArgs, TensorTable
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer

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
        "kernels from the first step on where there is a C++ compiler or a filled cache; "
        f"on accelerators, torch.compile for {MIN_ELEMENTS} elements or more"
    ),
}


def explain_engine(optimizer: Optimizer) -> Explanation:
    """Which engine steps which tensors of an optimizer, and why.

    Args:
        optimizer: A dashpot optimizer; before its first step only the rule is known.

    Raises `ArgumentError` for anything else.

    >>> import torch, dashpot as dp
    >>> w = torch.zeros(3, requires_grad=True)
    >>> opt = dp.AdamW([w], engine="eager")
    >>> w.grad = torch.ones(3); opt.step()
    >>> dp.explain_engine(opt)
    engine='eager': every operation by itself, one tensor at a time
      group 0: 1 tensor, eager: engine='eager' was asked for
    """
    stepper, engine = getattr(optimizer, "_stepper", None), getattr(optimizer, "_backend", None)
    if stepper is None or not isinstance(engine, Backend):
        raise ArgumentError(f"explain_engine: expected a dashpot optimizer, got {type(optimizer).__name__}.")
    return Explanation(engine.mode, tuple(_rows(stepper.tensor_table)) or ("no step was taken yet",))


def _rows(tensor_table: TensorTable) -> list[str]:
    found: dict[int, list[str]] = {}
    for table in tensor_table.kernel_args:
        for group, count in sorted(Counter(tensor_table.groups[i] for i in table.positions).items()):
            elements = sum(
                int(table.rows[n, 0]) for n, i in enumerate(table.positions) if tensor_table.groups[i] == group
            )
            found.setdefault(group, []).append(f"{_counted(count)}, {elements} elements, {_fate(table)}")
    for (group, reason), count in Counter(
        (tensor_table.groups[i], why) for i, why in tensor_table.fallbacks.items()
    ).items():
        found.setdefault(group, []).append(f"{_counted(count)}, eager: {reason}")
    return [f"group {group}: {row}" for group, rows in sorted(found.items()) for row in rows]


def _counted(count: int) -> str:
    return f"{count} tensor{'' if count == 1 else 's'}"


def _fate(table: KernelArgs) -> str:
    kernel = table.kernel
    if kernel.failed:
        return f"{kernel.weight}: eager: {kernel.failed}"
    return f"{kernel.weight}: compiled, {kernel.bytes_per_element} bytes moved for each element"
