"""Noise scale for advice: the newest estimate of a record, and the cost of batches that follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dashpot.watching.series import WatchRecord

_UNMEASURED = "The noise scale has not been measured: pass `sliced` and `size` to `watcher.observe`."


class Noise(NamedTuple):
    """An estimate of the noise scale in examples.

    Attributes:
        scale: The estimate; the lower end of the interval if only that is known.
        low, high: 95 % interval; `high` is infinite if it has no upper end.
        batch: Number of examples of the measured steps.
        is_bound: Whether `scale` is only a lower bound.
    """

    scale: float
    low: float
    high: float
    batch: float | None
    is_bound: bool


def progress(scale: float, old: float, new: float) -> float:
    """Return the progress of a step of `new` examples in steps of `old`: (1 + scale/old)/(1 + scale/new).

    Source: McCandlish et al., arXiv 1812.06162, 2018.
    """
    return new / old if math.isinf(scale) else (1 + scale / old) / (1 + scale / new)


def noise_of(record: WatchRecord, *, preconditioned: bool) -> Noise | str:
    """Return the newest estimate, or the reason why there is none.

    Args:
        record: The measurements.
        preconditioned: Whether to prefer the estimate in units of the rates, for methods with a denominator.
    """
    rows = list(record.rows("noise"))
    found = [noise for noise in (_of_row(row, preconditioned) for row in rows) if noise is not None]
    if found:
        return found[-1]
    reasons = [row["reason"] for row in rows if row.get("reason")]
    return reasons[-1] if reasons else _UNMEASURED


def _of_row(row: Mapping[str, Any], preconditioned: bool) -> Noise | None:
    weighted = row.get("preconditioned") if preconditioned else None
    return (_read(row, weighted) if weighted else None) or _read(row, row)


def _read(row: Mapping[str, Any], values: Mapping[str, Any]) -> Noise | None:
    low, scale = values.get("low"), values.get("scale")
    bound = scale if scale is not None else low
    if bound is None or not bound > 0 or not math.isfinite(bound):
        return None
    high = values.get("high")
    return Noise(
        scale=float(bound),
        low=float(low) if low is not None else 0.0,
        high=float(high) if high is not None else math.inf,
        batch=row.get("batch"),
        is_bound=scale is None,
    )
