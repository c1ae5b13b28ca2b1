"""Signals during training: the first asks for a tidy stop between two steps, the second ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["TERMINATION_SIGNALS", "Interrupted", "interruptible"]

TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what ends a job of a cluster or a container, and the loss of the terminal."""


class Interrupted(Exception):  # noqa: N818 - the user's wish, not an error
    """Training was asked to stop; the message says what is kept and how to go on.

    `code` is the exit code of the command: 128 and the number of the signal, such as 130 for Ctrl-C.
    """

    def __init__(self, message: str = "", code: int = 130) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def interruptible(signals: Sequence[int] = (signal.SIGINT,)) -> Iterator[Callable[[], None]]:
    """Within the block, `signals` only set a flag; the function it yields raises `Interrupted` once the flag is set.

    Outside the main thread, where Python delivers no signals, the block changes nothing. A signal besides Ctrl-C that
    the process was told to ignore, as SIGHUP under `nohup`, stays ignored.

    >>> with interruptible() as check:
    ...     check()
    """
    came: list[int] = []

    def check() -> None:
        if came:
            raise Interrupted(code=128 + came[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    taken = [s for s in signals if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]

    def ask(number: int, _: object) -> None:
        came.append(number)
        for each in taken:
            signal.signal(each, signal.SIG_DFL)

    previous = {number: signal.signal(number, ask) for number in taken}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
