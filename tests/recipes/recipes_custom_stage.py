"""Custom stages in an importable module, for deserialization by name."""

from dataclasses import dataclass

import dashpot as dp
from dashpot.constraints import Scalar


@dataclass(frozen=True)
class Softsign(dp.Stage):
    """Stage v <- v/(|v| + width), with the last direction as state and all kinds of field annotations."""

    width: Scalar
    gain: float = 1.0
    floor: float | None = None
    levels: tuple[int, ...] = (1, 2)
    mode: str = "soft"
    slots = (dp.elementwise("last", "softsign_last"),)

    def apply(self, x, s, c, ctx):
        v = c.gain * x.v / (x.v.abs() + c.width)
        return x._replace(v=v), s._replace(last=v)
