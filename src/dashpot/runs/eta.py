"""Progress and remaining time of a study."""

from __future__ import annotations

import time


class ProgressEstimate:
    """Progress of a study in steps. Steps of earlier sessions count as progress, but the speed excludes them.

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
        self._current_steps = 0
        self._timed_steps = 0
        self._start = time.perf_counter()

    @property
    def fraction(self) -> float:
        """Fraction of the steps of the study that are done, in [0, 1]."""
        return (self.finished * self.steps + self._current_steps) / (self.runs * self.steps)

    def start_run(self, steps_done: int) -> None:
        """Start a run, or resume it after `steps_done` steps."""
        self._current_steps = steps_done

    def step(self, steps_done: int) -> None:
        """Set the number of steps done in the current run."""
        self._timed_steps += steps_done - self._current_steps
        self._current_steps = steps_done

    def finish_run(self) -> None:
        """Count the current run as finished, even if it diverged before its last step."""
        self.finished += 1
        self._current_steps = 0

    skip_run = finish_run

    def remaining(self) -> float | None:
        """Return the remaining seconds at the average speed of this session; None before the first step."""
        if self._timed_steps == 0:
            return None
        steps = (self.runs - self.finished) * self.steps - self._current_steps
        return steps * (time.perf_counter() - self._start) / self._timed_steps
