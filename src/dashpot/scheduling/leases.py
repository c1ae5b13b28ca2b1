"""Leases: a worker that neither holds its lock file nor renews its lease has lost its items."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dashpot.scheduling.worker_lock import WorkerLock

RENEWALS = 4
"""Renewals of a lease within its duration."""


class LeaseWatch:
    """Observation of the leases of other workers.

    A lease is a counter in the storage that its worker increases `RENEWALS` times within the duration of the lease. The
    observer measures with its own monotonic clock how long a counter has not changed, since clocks of different
    machines differ. A pause of the observer, such as a suspended laptop, counts at most as one renewal interval.

    Args:
        lock: Lock of the observing worker.
        duration: Time in seconds without a renewal after which a worker has lost its items; positive.
        clock: Source of monotonic time in seconds.

    >>> now = [0.0]
    >>> watch = LeaseWatch(WorkerLock(None), 60.0, lambda: now[0])
    >>> lease = {"worker": "a", "host": "other", "count": 3}
    >>> for now[0] in range(0, 75, 15):
    ...     print(watch.is_over(7, lease), end=" ")
    False False False False True
    """

    def __init__(self, lock: WorkerLock, duration: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = lock
        self._duration = duration
        self._clock = clock
        self._seen: dict[int, tuple[Any, float, float]] = {}

    def is_over(self, trial: int, lease: Mapping[str, Any]) -> bool:
        """Return whether the worker that holds a trial has ended or has lost its lease.

        Args:
            trial: Identity of the trial.
            lease: Content of its lease, as made by `new_lease`.
        """
        if self._lock.has_ended(lease["worker"], lease["host"]):
            return True
        now = self._clock()
        count, unchanged, last = self._seen.get(trial, (lease["count"], 0.0, now))
        unchanged += min(now - last, self._duration / RENEWALS)
        if count != lease["count"]:
            unchanged = 0.0
        self._seen[trial] = (lease["count"], unchanged, now)
        return unchanged >= self._duration


def new_lease(lock: WorkerLock, count: int = 0) -> dict[str, Any]:
    """Return the lease of a worker after `count` renewals."""
    return {"worker": lock.worker, "host": lock.host, "count": count}
