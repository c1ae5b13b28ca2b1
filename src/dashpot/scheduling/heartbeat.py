"""Background thread that renews leases."""

from __future__ import annotations

import threading
from collections.abc import Callable

_RETRY = 1.0


class Heartbeat:
    """Thread that calls a function at intervals until it is stopped; errors shorten the next interval.

    Args:
        renew: Function to call; its exceptions, such as those of a database that restarts, are ignored.
        interval: Time between two calls in seconds; positive.
        end: Function called at the end of the thread.

    >>> called = threading.Event()
    >>> heartbeat = Heartbeat(called.set, 0.001, lambda: None)
    >>> heartbeat.start()
    >>> called.wait(60)
    True
    >>> heartbeat.stop()
    """

    def __init__(self, renew: Callable[[], None], interval: float, end: Callable[[], None]) -> None:
        self._renew = renew
        self._interval = interval
        self._end = end
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread unless it is running."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dashpot-heartbeat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread; an operation that blocks is not waited for longer than ten seconds."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self) -> None:
        pause = self._interval
        while not self._stopped.wait(pause):
            try:
                self._renew()
                pause = self._interval
            except Exception:
                pause = min(_RETRY, self._interval)
        self._end()
