"""Composition of schedules by concatenation and multiplication."""

from __future__ import annotations

import bisect
import math
from dataclasses import MISSING, dataclass
from typing import Any

from dashpot.constraints import field, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.decay import Constant
from dashpot.schedules.ranges import Increasing
from dashpot.schedules.schedule import Schedule


@dataclass(frozen=True)
class _Parts:
    """Constraint: a tuple of two or more schedules."""

    def __str__(self) -> str:
        return "a tuple of two or more schedules"

    def allows(self, value: Any) -> bool:
        return isinstance(value, tuple) and len(value) >= 2 and all(isinstance(part, Schedule) for part in value)

    def refused(self) -> list[Any]:
        return [None, Constant(), (), (Constant(),), (Constant(), 0.5), "ab"]


@dataclass(frozen=True)
class Sequence(Schedule):
    """Concatenation of schedules; each part counts its own steps from 0.

    Args:
        parts: Two or more schedules, either all factors or all absolute.
        milestones: Steps at which the second and all later parts start; positive and increasing.

    Source: torch.optim.lr_scheduler.SequentialLR.

    >>> from dashpot.schedules import Linear, LinearWarmup
    >>> Sequence((LinearWarmup(2, start=0.5), Linear(1.0, 0.0, steps=4)), milestones=(2,)).table(7)
    [0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    parts: tuple[Schedule, ...] = field(MISSING, _Parts())
    milestones: tuple[int, ...] = field(MISSING, Increasing())

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.milestones) != len(self.parts) - 1:
            raise ArgumentError(
                f"Sequence: milestones must be one fewer than the {len(self.parts)} parts, "
                f"got {shown(self.milestones)}."
            )
        if len({part.absolute for part in self.parts}) > 1:
            raise ArgumentError(f"Sequence: parts must be all factors or all absolute, got {shown(self.parts)}.")

    @property
    def absolute(self) -> bool:
        """True if the parts are absolute."""
        return self.parts[0].absolute

    def _at(self, step: int) -> float:
        index = bisect.bisect_right(self.milestones, step)
        return self.parts[index](step - (0, *self.milestones)[index])


@dataclass(frozen=True)
class Product(Schedule):
    """Product of schedules, also written `a * b`.

    Args:
        parts: Two or more schedules. At most one part may be absolute, which makes the product absolute.

    Source: torch.optim.lr_scheduler.ChainedScheduler.

    >>> from dashpot.schedules import Exponential
    >>> (Exponential(0.5) * Constant(2.0)).table(3)
    [2.0, 1.0, 0.5]
    """

    parts: tuple[Schedule, ...] = field(MISSING, _Parts())

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(part.absolute for part in self.parts) > 1:
            raise ArgumentError(f"Product: parts must have at most one absolute schedule, got {shown(self.parts)}.")

    @property
    def absolute(self) -> bool:
        """True if a part is absolute."""
        return any(part.absolute for part in self.parts)

    def _at(self, step: int) -> float:
        return math.prod(part(step) for part in self.parts)
