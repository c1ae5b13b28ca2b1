"""How fast a study goes, and how long it still takes."""

from __future__ import annotations

import time

from dashpot.utils.format import duration

__all__ = ["ProgressEstimate", "duration"]


class ProgressEstimate:
    """Counts the steps of a study; steps done in an earlier session count as progress, not towards the speed.

    >>> estimate = ProgressEstimate(runs=2, steps=100)
    >>> estimate.remaining() is None
    True
    >>> estimate.skip_run()
    >>> estimate.fraction
    0.5
    """

    def __init__(self, runs: int, steps: int) -> None:
        self.runs, self.steps = runs, steps
        self.finished = 0
        self._in_run = 0
        self._fresh = 0
        self._since = time.perf_counter()

    @property
    def fraction(self) -> float:
        """Share of all steps that is done, 0 to 1."""
        return (self.finished * self.steps + self._in_run) / (self.runs * self.steps)

    def start_run(self, steps_done: int) -> None:
        """A run begins, or goes on after `steps_done` steps."""
        self._in_run = steps_done

    def step(self, steps_done: int) -> None:
        """The present run has done `steps_done` steps."""
        self._fresh += steps_done - self._in_run
        self._in_run = steps_done

    def finish_run(self) -> None:
        """The present run is over, possibly early because it diverged."""
        self.finished += 1
        self._in_run = 0

    skip_run = finish_run

    def remaining(self) -> float | None:
        """Seconds that the rest takes at the average speed so far; None before the first step."""
        if self._fresh == 0:
            return None
        rest = (self.runs - self.finished) * self.steps - self._in_run
        return rest * (time.perf_counter() - self._since) / self._fresh
