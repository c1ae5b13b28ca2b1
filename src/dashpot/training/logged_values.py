"""Means over a phase of values that callbacks and models log by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

from torch import Tensor

from dashpot.constraints import shown
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.utils.scalars import read_all

BATCH_EVENTS = ("before_batch", "after_predict", "after_loss", "after_backward", "after_step", "after_batch")
"""Events in which a value belongs to the current batch."""
Sums = dict[str, tuple[float, float]]
"""Sum of the values times their weights, and sum of the weights, by name."""


class LoggedValues:
    """Means of logged values by name, weighted by examples; tensors are buffered to avoid host syncs.

    >>> import torch
    >>> values = LoggedValues()
    >>> values.add("a", 0.5, size=3)
    >>> values.add("a", torch.tensor(1.0), size=1)
    >>> values.means()
    {'a': 0.625}
    """

    def __init__(self) -> None:
        self._sums: Sums = {}
        self._pending: list[tuple[str, float | Tensor, int]] = []
        self._paused = False

    def add(self, name: str, value: Any, size: int) -> None:
        """Add a value with the weight `size`; nothing is added if `size` is 0.

        Raises:
            ArgumentError: If `value` is not a real number or a 0-d tensor.
        """
        number = number_or_tensor(f"Learner: the logged value {name!r}", value)
        if self._paused or size == 0:
            return
        self._sums.setdefault(name, (0.0, 0.0))
        self._pending.append((name, number, size))
        if len(self._pending) >= SYNC_INTERVAL * len(self._sums):
            self._flush()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore values inside the block, in which batches of the fit are computed again."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def means(self, gather: Callable[[Sums], Sequence[Sums]] | None = None) -> dict[str, float]:
        """Return the means so far; `gather` returns the sums of all ranks, in rank order."""
        self._flush()
        sums = self._sums if gather is None else merged(gather(self._sums))
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def state_dict(self) -> dict[str, list[float]]:
        """Return the sums so far as plain data."""
        self._flush()
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Restore the sums and discard pending values."""
        self._sums = {name: (float(total), float(weight)) for name, (total, weight) in state.items()}
        self._pending = []

    def _flush(self) -> None:
        """Add the pending values to the sums, in the order of the calls, with one host sync per device and dtype."""
        pending, self._pending = self._pending, []
        for (name, _, size), number in zip(pending, to_floats([value for _, value, _ in pending]), strict=True):
            total, weight = self._sums[name]
            self._sums[name] = total + number * size, weight + size


def merged(rows: Sequence[Mapping[str, Sequence[float]]]) -> Sums:
    """Return the sums over several ranks."""
    sums: Sums = {}
    for row in rows:
        for name, (total, weight) in row.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + total, before[1] + weight
    return sums


def of_rank(rows: Sequence[Mapping[str, Sequence[float]]], rank: int, world_size: int) -> Mapping[str, Sequence[float]]:
    """Return the saved sums for a rank; if the number of ranks has changed, rank 0 gets the sums of all ranks."""
    if len(rows) == world_size:
        return rows[rank]
    return merged(rows) if rank == 0 else {}


def log(learner: Any, name: str, value: Any) -> None:
    """Implement `Learner.log`."""
    _check_name(name, learner.metrics)
    loop = getattr(learner, "loop", None)
    if loop is not None and loop.event in BATCH_EVENTS:
        loop.logged.add(name, value, learner.batch.size)
    elif loop is not None and loop.event == "before_epoch":
        # The state of a fit that is resumed within an epoch contains the values of before_epoch.
        loop.logged.add(name, value, 0 if learner.training and loop.position[1] else 1)
    elif loop is not None and loop.event == "after_epoch":
        loop.logged.add(name, value, 1)
        learner.history[learner.epoch][loop.phase] |= loop.logged.means(learner.engine.all_gather)
    else:
        event = "no fit" if loop is None or loop.event == "cleanup_fit" else loop.event
        raise RunError(
            f"Learner: log must be called in a phase of a fit, from before_epoch to after_batch or in after_epoch, got "
            f"{event}."
        )


def _check_name(name: Any, metrics: Mapping[str, Any]) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ArgumentError(f"Learner: the name of a logged value must be a printable string, got {shown(name)}.")
    if name == "loss" or name in metrics:
        reserved = ", ".join(["loss", *metrics])
        raise ArgumentError(f"Learner: the name of a logged value must not be one of {reserved}, got {shown(name)}.")


def number_or_tensor(source: str, value: Any) -> float | Tensor:
    """Return a value as a float or as a copy of a 0-d tensor, which code of the user may change in place.

    Raises:
        ArgumentError: If the value is not a real number or a 0-d tensor; the message begins with `source`.
    """
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex():
        return value.detach().clone()
    got = shown(value)
    if isinstance(value, Tensor):
        got = f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    raise ArgumentError(f"{source} must be a number or a 0-d tensor, got {got}.")


def to_floats(values: Sequence[Any]) -> list[float]:
    """Convert numbers and 0-d tensors to floats, with one device transfer per device and dtype."""
    return [float(value) for value in read_all(values)]
