"""Findings of detectors, and a limit on their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Alarm(NamedTuple):
    """One finding of a detector at one step.

    Attributes:
        kind: Kind of the warning.
        tensor: Name of the tensor, or None if the finding is about the run.
        text: One sentence with numbers.
        advice: What to do.
        severity: In [0, 1]; 1 if the run cannot continue.
    """

    kind: str
    tensor: str | None
    text: str
    advice: str
    severity: float


class RateLimit:
    """Passes one alarm of each kind and tensor until it has been absent for some steps.

    Args:
        clear: Number of steps without the condition after which it may be reported again.
    """

    def __init__(self, clear: int = 50) -> None:
        self.clear = clear
        self._seen: dict[tuple[str, str | None], int] = {}

    def new(self, step: int, alarms: Iterable[Alarm]) -> Iterator[Alarm]:
        """Yield the alarms that have not been reported since they last cleared."""
        for alarm in alarms:
            key = (alarm.kind, alarm.tensor)
            seen, self._seen[key] = self._seen.get(key), step
            if seen is None or step - seen > self.clear:
                yield alarm
