"""Reduction of a factor on a plateau, as a function of the recorded metric instead of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dashpot.constraints import Interval, OneOf, check_fields, field, shown
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import FRACTION, PLACE


@dataclass(frozen=True)
class Plateau:
    """Factor that is reduced when a metric stops improving.

    A value of the metric is bad if it does not improve on the best value so far. After more than `patience` bad values
    in a row, the current factor is multiplied by `factor`, and the next `cooldown` values are ignored. NaN is never an
    improvement. The current factor depends only on the recorded history, which is therefore sufficient to resume a run.

    Args:
        factor: In (0, 1): multiplier applied at each reduction.
        patience: Integer >= 0: number of bad values tolerated in a row.
        threshold: Minimum improvement, >= 0.
        mode: "min" if smaller values are better, "max" if larger values are better.
        threshold_mode: "rel" if `threshold` is a fraction of the best value, "abs" if it is an absolute amount.
        cooldown: Integer >= 0: number of values ignored after a reduction.
        floor: In [0, 1]: smallest factor.
        eps: Minimum reduction of the factor, >= 0; smaller reductions are skipped.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, but `floor` and `eps` are relative to the base value. As in
    torch, "rel" assumes a positive metric: for a negative metric, a slightly worse value counts as an improvement.

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
        """Return the factor after all metric values in `history` (oldest first); 1.0 for an empty history.

        Raises:
            ArgumentError: If a value is not a number.
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
        raise ArgumentError(f"Plateau: history must contain numbers, got {shown(value)}.") from None
