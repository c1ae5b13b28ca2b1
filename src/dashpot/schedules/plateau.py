"""Reduce on a plateau: a function of what was measured, not of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dashpot.constraints import Interval, OneOf, check_fields, field, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import FRACTION, PLACE

__all__ = ["Plateau"]


@dataclass(frozen=True)
class Plateau:
    """A factor that shrinks when a metric stops improving.

    A value that is no improvement on the best so far is a bad one; after more than `patience` bad ones in a row the
    factor is multiplied by `factor`, and the next `cooldown` values are not counted. NaN is never an improvement.
    As the factor depends on the recorded history alone, resuming needs the history and nothing else.

    Args:
        Arguments: Factor: in (0, 1). patience, cooldown: numbers of values, integers >= 0. threshold: >= 0, the least
            improvement. mode: "min" or "max", the direction of improvement. threshold_mode: "rel", the threshold is a
            fraction of the best value, or "abs", an amount. floor: in [0, 1], the smallest factor. eps: >= 0, a smaller
            reduction than this is not made.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, with `floor` and `eps` in units of the base value. As there,
    "rel" is meant for positive metrics: below zero it takes a value slightly worse than the best for an improvement.

    >>> Plateau(factor=0.5, patience=1).factor_after([1.0, 0.9, 0.9, 0.9])
    0.5
    """

    factor: float = field(0.1, Interval(0, 1))
    patience: int = field(10, PLACE)
    threshold: float = field(1e-4, Interval(0, math.inf, "left"))
    mode: str = field("min", OneOf(("min", "max")))
    threshold_mode: str = field("rel", OneOf(("rel", "abs")))
    cooldown: int = field(0, PLACE)
    floor: float = field(0.0, FRACTION)
    eps: float = field(1e-8, Interval(0, math.inf, "left"))

    def __post_init__(self) -> None:
        check_fields(self)

    def factor_after(self, history: Iterable[float]) -> float:
        """The factor in force once the values of `history`, oldest first, have been seen; 1.0 for none.

        Raises `ArgumentError` for a value that is not a number.
        """
        current, best, bad, resting = 1.0, -math.inf if self.mode == "max" else math.inf, 0, 0
        for value in map(_number, history):
            better = self._better(value, best)
            best = value if better else best
            bad = 0 if better or resting else bad + 1
            resting = max(0, resting - 1)
            if bad > self.patience:
                current, bad, resting = self._reduced(current), 0, self.cooldown
        return current

    def _better(self, value: float, best: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            return sign * value > sign * best + self.threshold
        return sign * value > sign * best * (1 + sign * self.threshold)

    def _reduced(self, current: float) -> float:
        reduced = max(current * self.factor, self.floor)
        return reduced if current - reduced > self.eps else current


def _number(value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"Plateau: history must hold numbers, got {shown(value)}.") from None
