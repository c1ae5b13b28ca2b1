"""Progress and remaining time of a study."""

from __future__ import annotations

import time


class ProgressEstimate:
    """Progress of a study in steps. Steps of earlier sessions count as progress, but the speed excludes them.

    Args:
        items: Number of items of the study (tuning trials and runs), at least 1.
        steps: Number of steps of each item, at least 1.

    >>> estimate = ProgressEstimate(items=2, steps=100)
    >>> estimate.remaining() is None
    True
    >>> estimate.finish(None)
    >>> estimate.fraction
    0.5
    """

    def __init__(self, items: int, steps: int) -> None:
        self.items, self.steps = items, steps
        self.finished = 0
        self._current: dict[int, int] = {}  # steps done in the current item of each worker
        self._timed_steps = 0
        self._start = time.perf_counter()

    @property
    def fraction(self) -> float:
        """Fraction of the steps of the study that are done, in [0, 1]."""
        return min(1.0, (self.finished * self.steps + sum(self._current.values())) / (self.items * self.steps))

    def start(self, steps_done: int, worker: int = 0) -> None:
        """Start an item in a worker, or resume it after `steps_done` steps."""
        self._current[worker] = steps_done

    def step(self, steps_done: int, worker: int = 0) -> None:
        """Set the number of steps done in the current item of a worker."""
        self._timed_steps += steps_done - self._current.get(worker, 0)
        self._current[worker] = steps_done

    def finish(self, worker: int | None = 0) -> None:
        """Count the current item of a worker as finished, even if it ended before its last step; None: no worker."""
        self.finished = min(self.finished + 1, self.items)
        self.drop(worker)

    def drop(self, worker: int | None) -> None:
        """Discard the steps of the current item of a worker that has died or been interrupted."""
        if worker is not None:
            self._current.pop(worker, None)

    def total(self, finished: int) -> None:
        """Set the number of finished items, with those of other machines, if it is larger than the known number."""
        self.finished = min(max(self.finished, finished), self.items)

    def remaining(self) -> float | None:
        """Return the remaining seconds at the average speed of this session; None before the first step."""
        if self._timed_steps <= 0:
            return None
        steps = max(0, (self.items - self.finished) * self.steps - sum(self._current.values()))
        return steps * (time.perf_counter() - self._start) / self._timed_steps
