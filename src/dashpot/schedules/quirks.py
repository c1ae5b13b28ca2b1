"""Deviations of the original AutoSGM windows from their documentation, for reproducing published runs.

Quirks are enabled by name with `Window.from_rc_cfg(rc_cfg, quirks=...)`. A quirk that does not apply to the window has
no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dashpot.constraints import field
from dashpot.errors import ArgumentError
from dashpot.schedules.ranges import FLAG
from dashpot.schedules.shapes import LATE, logistic, polynomial, staircase
from dashpot.schedules.window import Window

QUIRKS: Mapping[str, str] = {
    "late_logistic_unnormalised": (
        "the late logistic is scaled by the end values of the mid one: order 4 runs from 1.058 to .311, not from 1 to 0"
    ),
    "epoch_counts_tau_steps": "with cfact 0 an epoch lasts tau steps (tau being the number of epochs), not spe",
    "epoch_window_second_frame": (
        "with cfact 0, from the second window on, the last epoch runs past the end of the shape after its first step"
    ),
}
"""Descriptions of the quirks by name."""


@dataclass(frozen=True)
class OriginalWindow(Window):
    """`Window` with quirks of the original implementation; see `Window` for the other arguments.

    Args:
        unnormalised: Quirk `late_logistic_unnormalised`: W(u) = (L(u; 7/8) - L(1; 1/2)) / (L(0; 1/2) - L(1; 1/2)).
        second_frame: Quirk `epoch_window_second_frame`: in window r = 0, 1, ..., the last `hold` steps, except for the
            first of these, use f = i / T + r. Staircase shapes continue to descend by one unit per stair, so that F
            becomes negative; the polynomial and the mid logistic are extrapolated. A polynomial of fractional order is
            rejected, since it is undefined at these values of f.

    >>> window = OriginalWindow("raised-cosine", steps=8, hold=2, second_frame=True)
    >>> [round(factor, 3) for factor in window.table(16)[6:8] + window.table(16)[14:]]
    [0.146, 0.146, 0.146, -0.854]
    """

    unnormalised: bool = field(False, FLAG)
    second_frame: bool = field(False, FLAG)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second_frame and self.shape == "polynomial" and self._power % 1:
            raise ArgumentError(
                f"OriginalWindow: order must be an integer for a polynomial with second_frame, got {self._power!r}."
            )

    @property
    def signed(self) -> bool:
        """True if `second_frame` is set, which makes the factors of the last epochs negative."""
        return self.second_frame

    def _height(self, u: float) -> float:
        if self.unnormalised and self.shape == "late-logistic":
            return staircase(self._unnormalised, u, self.repeats)
        if u > 1 and self.shape == "polynomial":
            return polynomial(u, self._power)
        return super()._height(u)

    def _unnormalised(self, u: float) -> float:
        end = logistic(1.0, self._power, 0.5)
        return (logistic(u, self._power, LATE) - end) / (logistic(0.0, self._power, 0.5) - end)

    @property
    def _power(self) -> float:
        return 0.0 if self.order is None else self.order

    def _depth(self, step: int) -> float | None:
        window, place = divmod(step, self.steps)
        past_first = place > self.steps - self.hold
        if self.second_frame and past_first and self.sequence == "uniform":
            return self._uniform((place // self.hold) / (self.steps // self.hold) + window)
        return super()._depth(step)
