"""What a step costs: time at the first and at a late step, bytes of state, and bytes that only the step needs."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.verification.course import Course
from dashpot.verification.result import Cost
from dashpot.verification.side import Maker, Side
from dashpot.verification.subject import Subject

__all__ = ["costs"]

AROUND = 5
"""A time is the median over the steps up to this far from the one it is of."""


def costs(subject: Subject, makers: Sequence[Maker], course: Course, names: Sequence[str], timed: int) -> list[Cost]:
    """Of the optimizer and of the reference.

    Where gradients are all that a step needs, both take `timed` steps in turns on copies, always with the gradients of
    the first batch, so that no forward pass disturbs the caches. Elsewhere the steps of the course count.
    """
    first, last = course.first_seconds, course.last_seconds
    if not course.shared:
        sizes = [_state_bytes(side.optimizer) for side in course.sides]
        return [Cost(*row, None) for row in zip(names, first, [course.compared] * 2, last, sizes, strict=True)]
    sides = [Side(subject, make) for make in makers]
    gradients = sides[0].gradients(1)
    for side in sides:
        for name, p in side.params.items():
            p.grad = gradients[name].clone() if name in gradients else None
    times = _in_turns(sides, timed)
    return [
        Cost(name, seconds, timed, late, _state_bytes(side.optimizer), _step_bytes(side))
        for name, seconds, late, side in zip(names, first, times, sides, strict=True)
    ]


def _in_turns(sides: Sequence[Side], timed: int) -> list[float]:
    """The seconds of step `timed` of each side."""
    table: list[list[float]] = []
    for _ in range(timed + AROUND):
        for side in sides:
            side.move()
        table.append([side.seconds for side in sides])
    return [statistics.median(column) for column in zip(*table[-2 * AROUND :], strict=True)]


def _state_bytes(optimizer: Any) -> int:
    kept = (value for state in getattr(optimizer, "state", {}).values() for value in state.values())
    return sum(value.nbytes for value in kept if isinstance(value, Tensor))


def _step_bytes(side: Side) -> int:
    """The most that torch has allocated at once in a step, beyond what was there before it."""
    device = next(iter(side.params.values())).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        side.move()
        return torch.cuda.max_memory_allocated(device) - before
    return _profiled_peak(side.move)


def _profiled_peak(step: Callable[[], object]) -> int:
    """The peak of the sum over allocations and frees, as torch's profiler records them."""
    before = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"  # else it writes to stderr that it starts and stops
    try:
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            step()
    finally:
        if before is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = before
    results: Any = profile.kineto_results if profile else None
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
