"""Times of workers: training, scheduling, waiting for other workers, and start."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dashpot.utils.format import duration


@dataclass
class WorkerTimes:
    """Seconds of one or several workers.

    Attributes:
        items: Number of finished items.
        training_s: Training and evaluation.
        scheduling_s: Operations of the work queue.
        waiting_s: Waiting while all ready items are held by other workers.
        start_s: Start of worker processes until the first operation of the work queue.
    """

    items: int = 0
    training_s: float = 0.0
    scheduling_s: float = 0.0
    waiting_s: float = 0.0
    start_s: float = 0.0

    def add(self, other: WorkerTimes) -> None:
        """Add the times of a worker."""
        for name, value in dataclasses.asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Add the wall-clock seconds of the block to the attribute `name`.

        >>> times = WorkerTimes()
        >>> with times.measured("waiting_s"):
        ...     pass
        >>> times.waiting_s < 1
        True
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    @property
    def scheduling_share(self) -> float:
        """Share of scheduling and start in the time of the workers without waiting, in [0, 1].

        >>> WorkerTimes(training_s=90.0, scheduling_s=6.0, start_s=4.0, waiting_s=50.0).scheduling_share
        0.1
        """
        total = self.training_s + self.scheduling_s + self.start_s
        return 0.0 if total == 0.0 else (self.scheduling_s + self.start_s) / total

    def plain(self) -> dict[str, Any]:
        """Return the times as plain data, rounded to milliseconds."""
        return {name: round(value, 3) for name, value in dataclasses.asdict(self).items()}

    def sentence(self) -> str:
        """Return a sentence on the overhead.

        >>> WorkerTimes(5, 95.0, 3.0, 1.5, 2.0).sentence()
        'Scheduling took 5.0 % of 1 min 40 s: 3.0 s in the work queue, 2.0 s for starts (and 1.5 s of waiting).'
        """
        total = self.training_s + self.scheduling_s + self.start_s
        waiting = f" (and {duration(self.waiting_s)} of waiting)" if self.waiting_s >= 0.05 else ""
        return (
            f"Scheduling took {100 * self.scheduling_share:.1f} % of {duration(total)}: "
            f"{duration(self.scheduling_s)} in the work queue, {duration(self.start_s)} for starts{waiting}."
        )
