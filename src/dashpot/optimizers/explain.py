"""Description of the engines that step the tensors of an optimizer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from dashpot.engine.backend import MIN_ELEMENTS, Backend
from dashpot.engine.tensor_table import KernelArgs, TensorTable
from dashpot.errors import ArgumentError
from dashpot.utils.format import counted

if TYPE_CHECKING:
    from dashpot.optimizers.base import Optimizer


class Explanation(NamedTuple):
    """The result of `explain_engine`: which engine steps which tensors.

    Attributes:
        mode: The engine option: "auto", "eager" or "compiled".
        rows: One line for each set of tensors that are stepped in the same way.
    """

    mode: str
    rows: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join([f"engine={self.mode!r}: {_RULES[self.mode]}", *(f"  {row}" for row in self.rows)])


_RULES = {
    "eager": "one operation and one tensor at a time",
    "compiled": "kernels, compiled before the first step unless cached",
    "auto": (
        "kernels from the first step if a C++ compiler or cached kernels are available; "
        f"on accelerators, torch.compile for {MIN_ELEMENTS} elements or more"
    ),
}


def explain_engine(optimizer: Optimizer) -> Explanation:
    """Describe which engine steps which tensors of an optimizer, and why.

    Args:
        optimizer: A dashpot optimizer. Before its first step, the result contains only the rule for choosing engines.

    Raises:
        ArgumentError: If `optimizer` is not a dashpot optimizer.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.zeros(3, requires_grad=True)
        >>> opt = dp.AdamW([w], engine="eager")
        >>> w.grad = torch.ones(3); opt.step()
        >>> dp.explain_engine(opt)
        engine='eager': one operation and one tensor at a time
          group 0: 1 tensor, eager: engine='eager'
    """
    backend = getattr(optimizer, "_backend", None)
    if not isinstance(backend, Backend):
        raise ArgumentError(f"explain_engine: expected a dashpot optimizer, got {type(optimizer).__name__}.")
    return Explanation(backend.mode, tuple(_rows(backend.tensor_table)) or ("no step taken yet",))


def _rows(table: TensorTable) -> list[str]:
    found: dict[int, list[str]] = {}
    for args in table.kernel_args:
        groups = [table.group_indices[i] for i in args.positions]
        for group, count in sorted(Counter(groups).items()):
            elements = sum(int(args.rows[n, 0]) for n, own in enumerate(groups) if own == group)
            found.setdefault(group, []).append(f"{counted(count, 'tensor')}, {elements} elements, {_status(args)}")
    fallbacks = Counter((table.group_indices[i], reason) for i, reason in table.fallbacks.items())
    for (group, reason), count in fallbacks.items():
        found.setdefault(group, []).append(f"{counted(count, 'tensor')}, eager: {reason}")
    return [f"group {group}: {row}" for group, rows in sorted(found.items()) for row in rows]


def _status(args: KernelArgs) -> str:
    kernel = args.kernel
    if kernel.failed:
        return f"{kernel.weight}: eager: {kernel.failed}"
    return f"{kernel.weight}: compiled, {kernel.bytes_per_element} bytes moved per element"
