"""Control of the cost of measurements: a share of the time between steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Share of the run's time that measurements may take.

    Time outside of measurements earns credit, `share` seconds per second; a measurement spends its measured cost. A
    measurement starts only if the credit covers its expected cost, the last cost of its kind. The first measurement of
    each kind needs no credit, unless others have overspent.

    Args:
        share: Allowed share, in (0, 1].
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.spent: dict[str, float] = {}
        self.expected: dict[str, float] = {}
        self.elapsed = 0.0  # seconds of the run without measurements
        self._since = time.perf_counter()

    def begin(self) -> None:
        """Count the time since the last call or measurement as time of the run."""
        now = time.perf_counter()
        self.elapsed += now - self._since
        self._since = now

    @property
    def credit(self) -> float:
        """Seconds that measurements may still take."""
        return self.share * self.elapsed - sum(self.spent.values())

    @property
    def used(self) -> float:
        """Measured share of the run's own time that measurements have taken."""
        return sum(self.spent.values()) / self.elapsed if self.elapsed else 0.0

    def affords(self, kind: str) -> bool:
        """Return whether the credit covers the next measurement of a kind."""
        return self.credit >= self.expected.get(kind, 0.0)

    @contextmanager
    def charge(self, kind: str) -> Iterator[None]:
        """Measure the cost of a block, and exclude it from the time of the run."""
        self.begin()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._since = time.perf_counter()
            cost = self._since - start
            self.spent[kind] = self.spent.get(kind, 0.0) + cost
            self.expected[kind] = cost
