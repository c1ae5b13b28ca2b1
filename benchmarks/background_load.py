"""CPU load of other processes, which invalidates a measurement."""

from __future__ import annotations

import os
import time
from pathlib import Path

BUSY = 0.15  # number of cores; a higher load adds a warning to the tables


class BackgroundLoad:
    """The CPU load of other processes since construction; without /proc/stat, only the load average at construction."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def cores(self) -> float:
        """Return the average number of cores used by other processes since construction."""
        if self._busy is None:
            return 0.0
        others = (busy_seconds() or 0.0) - self._busy - (own_seconds() - self._own)
        return max(others, 0.0) / max(time.monotonic() - self._start, 1e-9)

    def warning(self) -> str | None:
        """Return a warning if other processes may have disturbed the measurement, else None."""
        if self.cores() < BUSY and self.load < 2 * BUSY:
            return None
        return (
            f"**Disturbed:** the load average at the start was {self.load:.1f}, and other processes kept "
            f"{self.cores():.1f} cores busy; these figures are noise."
        )


def busy_seconds() -> float | None:
    """Return the busy seconds of all cores since boot, including steal time; None if /proc/stat is not available."""
    try:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU seconds of this process and its reaped children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
