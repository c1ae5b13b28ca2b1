"""Scheduling of a kernel: the passes over a tensor in which each sum is computed and each array is written.

A sum over the tensor ends a pass, because operations that depend on the sum need all elements. Only sums are kept
between passes. Later passes recompute everything else, which costs arithmetic but no memory traffic. Therefore an array
must not be overwritten before the last pass that reads its old value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dashpot.engine.native.symbols import Symbol
from dashpot.engine.native.trace import Trace


class Pass(NamedTuple):
    """One pass over the elements, with the sums that it computes and the arrays that it writes."""

    sums: tuple[Symbol, ...]
    stores: Mapping[str, Symbol]

    def roots(self) -> list[Symbol]:
        """Return the symbols to compute for each element."""
        return [*(s.args[0] for s in self.sums), *self.stores.values()]


def passes(trace: Trace) -> list[Pass]:
    """Return the smallest possible sequence of passes for a step."""
    sums = [
        s for s in reached([*trace.arrays.values(), *trace.per_tensor.values()], through_sums=True) if s.op == "sum"
    ]
    last = max([0, *(s.args[0].level for s in sums), *(value.level for value in trace.arrays.values())])
    when = {key: value.level for key, value in trace.arrays.items()}
    while True:
        plan = [
            Pass(
                tuple(s for s in sums if s.args[0].level == number),
                {key: value for key, value in trace.arrays.items() if when[key] == number},
            )
            for number in range(last + 1)
        ]
        moved = False
        for number, work in enumerate(plan):
            for key in reads(work.roots()):
                if key in when and when[key] < number:
                    when[key], moved = number, True
        if not moved:
            return plan


def traffic(trace: Trace) -> int:
    """Return the memory traffic of all passes together, in bytes per element."""
    size = {"f64": 8, "f32": 4, "i32": 4, "bf16": 2, "f16": 2}
    touched = [key for work in passes(trace) for key in (*reads(work.roots()), *work.stores)]
    return sum(size[trace.kinds[key]] for key in touched)


def reads(roots: Iterable[Symbol]) -> set[str]:
    """Return the arrays whose old values are read to compute `roots`."""
    return {s.args[0] for s in reached(roots) if s.op == "load"}


def reached(roots: Iterable[Symbol], *, through_sums: bool = False) -> list[Symbol]:
    """Return `roots` and their direct and indirect operands, operands first; stop at sums unless `through_sums`."""
    order: dict[int, Symbol] = {}
    waiting = list(roots)[::-1]
    while waiting:  # not recursive, because a stage may chain a thousand operations
        symbol = waiting[-1]
        known = symbol.op == "sum" and not through_sums
        needed = [a for a in symbol.args if isinstance(a, Symbol) and id(a) not in order]
        if id(symbol) in order or known or not needed:
            order.setdefault(id(symbol), waiting.pop())
        else:
            waiting += reversed(needed)
    return list(order.values())
