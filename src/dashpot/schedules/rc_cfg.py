"""Conversion of AutoSGM's window configuration, a tuple of nine numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashpot.constraints import Constraint, Interval, OneOf, check, shown, unknown
from dashpot.errors import ArgumentError
from dashpot.schedules.decay import Constant
from dashpot.schedules.quirks import QUIRKS, OriginalWindow
from dashpot.schedules.ranges import FRACTION, PLACE, STEPS
from dashpot.schedules.schedule import Schedule
from dashpot.schedules.shapes import SHAPES
from dashpot.schedules.window import Window

SLOTS: Mapping[str, Constraint] = {
    "rcm": OneOf(tuple(range(len(SHAPES)))),
    "inseq": OneOf((0, 1)),
    "x": FRACTION,
    "n": Interval(),
    "m": OneOf((0, 1)),
    "tau": STEPS,
    "spe": STEPS,
    "cfact": PLACE,
    "e": Interval(0, 1, "left"),
}
"""Names and allowed values of the nine entries, in order; the range of n additionally depends on the shape."""


def from_rc_cfg(rc_cfg: Sequence[Any], quirks: Iterable[str] = ()) -> Schedule:
    """Implement `Window.from_rc_cfg`."""
    slots, quirks = _slots(rc_cfg), _quirks(quirks)
    if slots["rcm"] == 0:
        return Constant()
    shape = tuple(SHAPES)[slots["rcm"]]
    orders = SHAPES[shape].orders
    if orders is not None:
        check("rc_cfg", f"n (order of {shape})", slots["n"], orders)
    steps, hold = _lengths(slots["tau"], slots["spe"], slots["cfact"], quirks)
    if steps < 2 * hold:
        unit = {0: "tau >= 2 for cfact 0", 2: "spe >= 2 for cfact 2"}.get(slots["cfact"], "tau * spe >= 2")
        raise ArgumentError(
            f"rc_cfg: a window requires {unit}, got tau={slots['tau']}, spe={slots['spe']}, cfact={slots['cfact']}."
        )
    values = {
        "shape": shape,
        "steps": steps,
        "order": slots["n"],
        "floor": slots["x"],
        "half": slots["m"] == 1,
        "flat_top": slots["e"],
        "repeats": slots["cfact"] if slots["cfact"] >= 3 and shape != "polynomial" else 1,
        "hold": hold,
        "sequence": "kronecker" if slots["inseq"] == 1 else "uniform",
    }
    late = "late_logistic_unnormalised" in quirks and shape == "late-logistic"
    frame = "epoch_window_second_frame" in quirks and hold > 1
    return OriginalWindow(**values, unnormalised=late, second_frame=frame) if late or frame else Window(**values)


def _slots(rc_cfg: Sequence[Any]) -> dict[str, Any]:
    if not isinstance(rc_cfg, (tuple, list)) or len(rc_cfg) != len(SLOTS):
        raise ArgumentError(f"rc_cfg must be a tuple of {len(SLOTS)} values ({', '.join(SLOTS)}), got {shown(rc_cfg)}.")
    slots = dict(zip(SLOTS, rc_cfg, strict=True))
    for name, value in slots.items():
        check("rc_cfg", name, value, SLOTS[name])
    return slots


def _quirks(names: Iterable[str]) -> tuple[str, ...]:
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in QUIRKS:
            raise unknown("window quirk", name, QUIRKS)
    return names


def _lengths(tau: int, spe: int, cfact: int, quirks: tuple[str, ...]) -> tuple[int, int]:
    """Return the number of steps in a window and the number of steps for which each value is held."""
    epoch = tau if cfact == 0 and "epoch_counts_tau_steps" in quirks else spe
    if cfact == 2:
        return spe, 1
    return tau * epoch, epoch if cfact == 0 else 1
