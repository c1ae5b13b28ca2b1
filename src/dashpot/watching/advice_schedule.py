"""Schedules for a larger batch: the warm-up keeps its steps, the rest its share of the examples."""

from __future__ import annotations

import dataclasses

from dashpot.analysis.time_scaling import rescaled
from dashpot.schedules import ExponentialWarmup, LinearWarmup, Product, Schedule, Sequence


def with_held_warmup(old: Schedule, new: Schedule, ratio: float) -> Schedule:
    """Return the rescaled schedule `new` with the warm-up of `old`, for at most half of its steps.

    The first gradients exceed their noise even if later ones do not. The largest stable rate of the first steps then
    depends on the number of steps, not of examples.

    Args:
        old: Schedule of the present batch.
        new: The same with all lengths divided by `ratio`.
        ratio: New over present batch, above 1.
    """
    if isinstance(old, Product) and isinstance(new, Product):
        pairs = zip(old.parts, new.parts, strict=True)
        return Product(tuple(a if isinstance(a, LinearWarmup) else b for a, b in pairs))
    if not isinstance(old, Sequence) or not isinstance(old.parts[0], (LinearWarmup, ExponentialWarmup)):
        return new
    start, length, wanted = old.milestones[0], _length(old), _length(new)
    if length is None or wanted is None:  # without an end
        return _joined(old, start, ratio)
    kept = max(1, min(start, wanted // 2))
    return _joined(old, kept, (length - start) / (wanted - kept))


def _joined(old: Sequence, kept: int, factor: float) -> Schedule:
    """Return `old` with `kept` steps of warm-up, and the length of the rest divided by `factor`."""
    start = old.milestones[0]
    milestones = tuple(step - start for step in old.milestones[1:])
    rest = Sequence(old.parts[1:], milestones) if milestones else old.parts[1]
    found = rescaled(rest, factor)
    if found is None:
        return old
    warmup = old.parts[0]
    if isinstance(warmup, LinearWarmup):
        warmup = dataclasses.replace(warmup, steps=min(warmup.steps, kept))
    parts = found.schedule.parts if isinstance(found.schedule, Sequence) else (found.schedule,)
    later = found.schedule.milestones if isinstance(found.schedule, Sequence) else ()
    return Sequence((warmup, *parts), (kept, *(kept + step for step in later)))


def _length(schedule: Schedule) -> int | None:
    """Return the number of steps of a schedule that ends, or None."""
    if isinstance(schedule, Sequence):
        last = _length(schedule.parts[-1])
        return None if last is None else schedule.milestones[-1] + last
    steps = getattr(schedule, "steps", None)
    return steps if isinstance(steps, int) else None
