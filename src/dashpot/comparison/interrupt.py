"""Ctrl-C during training: the first asks for a tidy stop between two steps, the second ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Interrupted", "interruptible"]


class Interrupted(Exception):  # noqa: N818 - the user's wish, not an error
    """Training was asked to stop; the message says what is kept and how to go on."""


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within the block, Ctrl-C only sets a flag; the function it yields raises `Interrupted` once the flag is set.

    Outside the main thread, where Python delivers no signals, the block changes nothing.

    >>> with interruptible() as check:
    ...     check()
    """
    asked = threading.Event()

    def check() -> None:
        if asked.is_set():
            raise Interrupted

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
