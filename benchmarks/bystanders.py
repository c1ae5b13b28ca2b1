"""How much other processes use the cores meanwhile: figures with company are noise."""

from __future__ import annotations

import os
import time
from pathlib import Path

BUSY = 0.15  # cores, from which on a table says that it was disturbed


class Bystanders:
    """Counts from its making on. Where the system does not tell, only the load average at the start is known."""

    def __init__(self) -> None:
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        self._start, self._busy, self._own = time.monotonic(), busy_seconds(), own_seconds()

    def cores(self) -> float:
        """Cores that other processes kept busy on average since the start."""
        if self._busy is None:
            return 0.0
        others = (busy_seconds() or 0.0) - self._busy - (own_seconds() - self._own)
        return max(others, 0.0) / max(time.monotonic() - self._start, 1e-9)

    def warning(self) -> str | None:
        """A sentence where others disturb or may have, else None."""
        if self.cores() < BUSY and self.load < 2 * BUSY:
            return None
        return (
            f"**Disturbed:** the load average at the start was {self.load:.1f}, and other processes kept "
            f"{self.cores():.1f} cores busy meanwhile; these figures are noise."
        )


def busy_seconds() -> float | None:
    """Seconds all cores have worked for somebody since the system started, those stolen by a host included."""
    try:
        user, nice, system, _, _, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Seconds this process and the children it has waited for have worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
