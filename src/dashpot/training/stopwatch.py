"""CPU and wall seconds of an epoch's training, over as many sessions as it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

__all__ = ["Stopwatch"]


class Stopwatch:
    """Adds up seconds between `start` and `stop`: of all CPUs this process has used, and by the clock.

    >>> watch = Stopwatch()
    >>> watch.start()
    >>> cpu, wall = watch.seconds
    >>> watch.stop()
    >>> wall < sum(watch.seconds), Stopwatch((2.0, 1.0)).seconds
    (True, (2.0, 1.0))
    """

    def __init__(self, spent: Sequence[float] = (0.0, 0.0)) -> None:
        self._spent, self._since = (spent[0], spent[1]), None

    def start(self) -> None:
        """Go on from here."""
        self._since = _now()

    def stop(self) -> None:
        """Take in the time since the start."""
        self._spent, self._since = self.seconds, None

    @property
    def runs(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._since is not None

    @property
    def seconds(self) -> tuple[float, float]:
        """CPU and wall seconds so far."""
        if self._since is None:
            return self._spent
        (cpu, wall), (cpu_then, wall_then), (cpu_now, wall_now) = self._spent, self._since, _now()
        return cpu + cpu_now - cpu_then, wall + wall_now - wall_then


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()
