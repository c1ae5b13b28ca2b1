"""CPU and wall time of the training phase of an epoch, accumulated over sessions."""

from __future__ import annotations

import time
from collections.abc import Sequence


class Stopwatch:
    """Accumulated CPU and wall time between `start` and `stop`, in seconds.

    Args:
        spent: CPU and wall time of earlier sessions, in seconds.

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
        """Start or continue timing."""
        self._since = _now()

    def stop(self) -> None:
        """Stop timing, and add the time since `start`."""
        self._spent, self._since = self.seconds, None

    @property
    def running(self) -> bool:
        """Whether the stopwatch is running."""
        return self._since is not None

    @property
    def seconds(self) -> tuple[float, float]:
        """CPU and wall time so far, in seconds; the CPU time includes all threads of this process."""
        if self._since is None:
            return self._spent
        (cpu, wall), (cpu_then, wall_then), (cpu_now, wall_now) = self._spent, self._since, _now()
        return cpu + cpu_now - cpu_then, wall + wall_now - wall_then


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()
