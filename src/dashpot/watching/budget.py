"""Control of the cost of measurements: a share of the time of the training steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 200
"""Number of steps that a run is assumed to have at least, so that the first steps can be measured."""
_PAUSE = 10.0  # a longer break between steps, in step times, counts as this many: evaluations, idle notebooks
_HOOKS = "hooks"
_CHEAP = 0.1  # largest prior of kinds, such as norms, that have a share of the budget of their own
_GUARANTEED = 0.1  # of the budget, so that credit in advance for other kinds leaves no gaps in their curves


class Budget:
    """Share of the time of the training steps that measurements may take.

    The time of the steps earns credit, `share` seconds per second, and a measurement spends its measured cost. A
    measurement starts only if the credit covers its expected cost: the last cost of its kind, or before the first
    measurement an estimate in step times. Half of the income is saved for kinds that wait for credit, so that frequent
    measurements do not displace an expensive one, and each cheap kind has a tenth of the budget of its own. Credit is
    given in advance for the first 200 steps, and if the number of steps is known, for half of the remaining steps.

    Args:
        share: Allowed share, in (0, 1]; 1 means no limit.
        steps: Number of steps of the run, or None if unknown.
        clock: Function that returns the time in seconds.

    Attributes:
        spent: Seconds spent by kind; "hooks" is the bookkeeping of the watcher.
        counts: Number of measurements by kind.
        expected: Expected seconds of the next measurement by kind.
        average: Exponential average of the seconds of a measurement by kind.
        elapsed: Seconds of the training steps without measurements.
        steps_done: Number of steps.
        resumed_at: Number of steps of the run before the first one of this process.
    """

    def __init__(self, share: float, steps: int | None = None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.share, self.steps = share, steps
        self.spent: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.expected: dict[str, float] = {}
        self.average: dict[str, float] = {}
        self.elapsed = 0.0
        self.steps_done = 0
        self.resumed_at = 0
        self._clock = clock
        self._left = clock()  # end of the last hook
        self._entered = self._left
        self._charged = 0.0  # seconds charged since the start of the current hook
        self._reserved = 0.0
        self._saved: dict[str, float] = {}  # by waiting kind
        self._interval = 0.0  # typical seconds between the end of a step and the start of the next one

    # ---- time -------------------------------------------------------------------------------------------------------

    @contextmanager
    def hook(self, *, new_step: bool) -> Iterator[None]:
        """Separate the time of the run from that of a hook. In the hook, time that is not charged is bookkeeping."""
        self._enter(new_step)
        try:
            yield
        finally:
            self._left = self._clock()
            self._add(_HOOKS, self._left - self._entered - self._charged)

    def skip(self) -> None:
        """Exclude the time since the last hook from the time of the run."""
        self._left = self._clock()

    def _enter(self, new_step: bool) -> None:
        now = self._clock()
        seconds = now - self._left
        if new_step:
            self.steps_done += 1
            seconds = self._between(seconds)
        self.elapsed += seconds
        self._save(seconds)
        self._entered, self._charged, self._reserved = now, 0.0, 0.0

    @contextmanager
    def charge(self, kind: str) -> Iterator[None]:
        """Measure the cost of a block within a hook. Several blocks of one kind and step are one measurement."""
        start = self._clock()
        try:
            yield
        finally:
            cost = self._clock() - start
            self._charged += cost
            self._add(kind, cost)

    def finish(self, kind: str, cost: float) -> None:
        """Count a measurement with its whole cost, from which the next one is estimated."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        # A measurement without a result costs nothing, and must not make the next one appear free.
        self.expected[kind] = max(cost, 0.5 * self.expected.get(kind, 0.0))
        if self.counts[kind] > 1:  # the first measurement also creates buffers and loads code
            self.average[kind] = cost + 0.9 * (self.average.get(kind, cost) - cost)
        self._saved.pop(kind, None)

    def _between(self, seconds: float) -> float:
        """Return the part of the time between two steps that counts as training."""
        if self.steps_done == 1:  # from the start of the watcher
            self._interval = seconds
            return 0.0
        if self.steps_done > 2:
            seconds = min(seconds, _PAUSE * max(self._interval, self.step_time))
        self._interval = seconds if self.steps_done == 2 else self._interval + 0.1 * (seconds - self._interval)
        return seconds

    def _save(self, seconds: float) -> None:
        for kind in self._saved:
            self._saved[kind] += 0.5 * self.share * seconds / len(self._saved)

    def _add(self, kind: str, seconds: float) -> None:
        self.spent[kind] = self.spent.get(kind, 0.0) + seconds

    # ---- decisions --------------------------------------------------------------------------------------------------

    @property
    def step_time(self) -> float:
        """Mean seconds of a training step; before the second step, the seconds since the start."""
        return self.elapsed / (self.steps_done - 1) if self.steps_done > 1 else self._interval

    @property
    def credit(self) -> float:
        """Seconds that measurements may still take, including the credit in advance."""
        return self.share * (self.elapsed + self._ahead() * self.step_time) - sum(self.spent.values())

    @property
    def used(self) -> float:
        """Measured share of the time of the training steps that measurements have taken."""
        return sum(self.spent.values()) / self.elapsed if self.elapsed else 0.0

    @property
    def waiting(self) -> tuple[str, ...]:
        """Kinds that wait for credit."""
        return tuple(self._saved)

    def affords(self, kind: str, prior: float = 0.0) -> bool:
        """Return whether the credit covers a measurement, in addition to those reserved in this hook.

        Args:
            kind: Kind of the measurement.
            prior: Cost in step times, assumed before the first measurement.
        """
        if self.share == 1:
            return True
        cost = self._cost(kind, prior)
        if prior <= _CHEAP and self.spent.get(kind, 0.0) + cost <= _GUARANTEED * self.share * self.elapsed:
            return True
        others = sum(min(saved, self.expected.get(k, math.inf)) for k, saved in self._saved.items() if k != kind)
        # Saved income is not reduced by probes that always run, and must not block all others.
        free = self.credit - self._reserved
        return free - min(others, 0.5 * free) >= cost

    def reserve(self, kind: str, prior: float = 0.0) -> None:
        """Reserve the expected cost until the end of the hook."""
        self._reserved += self._cost(kind, prior)

    def wait(self, kind: str) -> None:
        """Save a part of the income for a kind, until its next measurement."""
        self._saved.setdefault(kind, 0.0)

    @property
    def is_overdrawn(self) -> bool:
        """Whether measurements of several steps must end, because they cost more than expected."""
        return self.share < 1 and self.credit < -GRACE * self.share * self.step_time

    def abandon(self, kind: str) -> None:
        """Assume for the next measurement of a kind at least twice the cost until now."""
        self.finish(kind, 2 * self.spent.get(kind, 0.0))

    def load(self, kind: str, every: int) -> float:
        """Return the share of the time that a measurement of this kind every `every` steps takes."""
        return self.average.get(kind, 0.0) / (every * self.step_time) if self.step_time else 0.0

    def _cost(self, kind: str, prior: float) -> float:
        return self.expected.get(kind, prior * self.step_time)

    def _ahead(self) -> float:
        """Return the number of future steps whose credit is given in advance."""
        grace = max(GRACE - self.steps_done, 0)
        if self.steps is None:
            return grace
        remaining = max(self.steps - self.resumed_at - self.steps_done, 0)
        return min(remaining, max(grace, remaining / 2))
