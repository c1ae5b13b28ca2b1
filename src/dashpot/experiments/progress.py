"""Progress of the running experiment, reported to a listener."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Listener = Callable[[str], None]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Report progress to `listener` inside the block; None reports nothing.

    >>> with listening(print):
    ...     report_progress("saddle")
    saddle
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_progress(text: str) -> None:
    """Report the current part of an experiment to the listener, if any."""
    listener = _listener.get()
    if listener is not None:
        listener(text)


def tracked(items: Iterable[Item], label: str) -> Iterator[Item]:
    """Yield `items`, and report `label` with a count before each of them.

    >>> with listening(print):
    ...     total = sum(tracked([1, 2], "rate"))
    rate 1/2
    rate 2/2
    """
    listed: Sequence[Item] = list(items)
    for number, item in enumerate(listed, start=1):
        report_progress(f"{label} {number}/{len(listed)}")
        yield item
