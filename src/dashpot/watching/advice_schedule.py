"""Schedules for the same number of examples, with a separate factor for the warm-up."""

from __future__ import annotations

from dashpot.analysis.time_scaling import rescaled
from dashpot.schedules import ExponentialWarmup, LinearWarmup, Product, Schedule, Sequence

_WARMUPS = (LinearWarmup, ExponentialWarmup)


def with_warmup(old: Schedule, new: Schedule, ratio: float, factor: float) -> Schedule:
    """Return the rescaled schedule `new` with the steps of the warm-up of `old` divided by `factor`.

    The warm-up has at most half of the steps. The rest is shortened such that the length is that of `new`.

    Args:
        old: Schedule of the present batch.
        new: The same with all lengths divided by `ratio`.
        ratio: New over present batch.
        factor: Divisor of the steps of the warm-up.
    """
    if old.absolute:  # `new` also contains the factor of the learning rate
        return new
    if isinstance(old, Product) and isinstance(new, Product):
        pairs = zip(old.parts, new.parts, strict=True)
        return Product(tuple(_divided(a, factor) if isinstance(a, _WARMUPS) else b for a, b in pairs))
    if isinstance(old, _WARMUPS):
        return _divided(old, factor)
    if not isinstance(old, Sequence) or not isinstance(old.parts[0], _WARMUPS):
        return new
    start, length, wanted = old.milestones[0], _length(old), _length(new)
    kept = max(1, round(start / factor))
    if length is None or wanted is None:  # without an end
        return _joined(old, kept, ratio)
    kept = max(1, min(kept, wanted // 2))
    return _joined(old, kept, (length - start) / (wanted - kept))


def _joined(old: Sequence, kept: int, ratio: float) -> Schedule:
    """Return `old` with `kept` steps of warm-up, and the length of the rest divided by `ratio`."""
    start = old.milestones[0]
    milestones = tuple(step - start for step in old.milestones[1:])
    rest = Sequence(old.parts[1:], milestones) if milestones else old.parts[1]
    found = rescaled(rest, ratio)
    if found is None:
        return old
    warmup = _divided(old.parts[0], start / kept)
    parts = found.schedule.parts if isinstance(found.schedule, Sequence) else (found.schedule,)
    later = found.schedule.milestones if isinstance(found.schedule, Sequence) else ()
    return Sequence((warmup, *parts), (kept, *(kept + step for step in later)))


def _divided(warmup: Schedule, factor: float) -> Schedule:
    found = rescaled(warmup, factor)
    assert found is not None
    return found.schedule


def _length(schedule: Schedule) -> int | None:
    """Return the number of steps of a schedule that ends, or None."""
    if isinstance(schedule, Sequence):
        last = _length(schedule.parts[-1])
        return None if last is None else schedule.milestones[-1] + last
    steps = getattr(schedule, "steps", None)
    return steps if isinstance(steps, int) else None
