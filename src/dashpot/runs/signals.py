"""Signals during training: requests to stop between two steps, or to save a checkpoint and continue.

The second request to stop ends the process immediately.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals sent by Ctrl-C, by a cluster or container on termination, and on loss of the terminal."""
SAVE_SIGNAL = "SIGUSR1" if hasattr(signal, "SIGUSR1") else None
"""Name of the signal that requests a checkpoint, as sent by `scancel --signal=USR1`; None on Windows."""


class Interrupted(Exception):  # noqa: N818 - control flow, not an error
    """Exception raised if a signal has stopped training; the message describes saved data and how to resume.

    Attributes:
        code: Exit code of the command, 128 + signal number; for example, 130 for Ctrl-C.
    """

    def __init__(self, message: str = "", code: int = 130) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def interruptible(signals: Sequence[int] = (signal.SIGINT,)) -> Iterator[Callable[[], None]]:
    """Record `signals` inside the block, and yield a function that raises `Interrupted` once a signal is received.

    A second signal has its default effect. Outside the main thread, to which Python delivers all signals, the context
    manager is a no-op. An ignored signal other than SIGINT, such as SIGHUP under `nohup`, remains ignored.

    >>> with interruptible() as check:
    ...     check()
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise Interrupted(code=128 + received[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    handled = [s for s in signals if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]

    def record(number: int, _: object) -> None:
        received.append(number)
        for each in handled:
            signal.signal(each, signal.SIG_DFL)

    previous = {number: signal.signal(number, record) for number in handled}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def recorded_signal(name: str | None) -> Iterator[Callable[[], bool]]:
    """Record a signal inside the block, and yield a function that returns whether it was received since the last call.

    If `name` is None, and outside the main thread, to which Python delivers all signals, no signal is recorded.

    >>> with recorded_signal(SAVE_SIGNAL) as requested:
    ...     requested()
    False
    """
    received: list[int] = []

    def requested() -> bool:
        pending = bool(received)
        received.clear()
        return pending

    if name is None or threading.current_thread() is not threading.main_thread():
        yield requested
        return
    number = signal.Signals[name]
    previous = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield requested
    finally:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextmanager
def ignored_signal(name: str | None) -> Iterator[None]:
    """Ignore a signal inside the block, also in child processes unless they handle it.

    If `name` is None, and outside the main thread, the context manager is a no-op.

    >>> with ignored_signal(SAVE_SIGNAL):
    ...     pass
    """
    if name is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    number = signal.Signals[name]
    previous = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, signal.SIG_DFL if previous is None else previous)
