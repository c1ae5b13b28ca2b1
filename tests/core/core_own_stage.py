"""A user's own stages, in a module of their own: what the recipe tests read back by name."""

from dataclasses import dataclass

import dashpot as dp
from dashpot.constraints import Scalar


@dataclass(frozen=True)
class Softsign(dp.Stage):
    """v <- v/(|v| + width), with the last direction kept: every kind of field annotation a user may write."""

    width: Scalar
    gain: float = 1.0
    floor: float | None = None
    levels: tuple[int, ...] = (1, 2)
    mode: str = "soft"
    slots = (dp.elementwise("last", "softsign_last"),)

    def apply(self, x, s, c, ctx):
        v = c.gain * x.v / (x.v.abs() + c.width)
        return x._replace(v=v), s._replace(last=v)
