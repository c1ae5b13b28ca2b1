"""Noise scales of a record, and the sentence on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dashpot.analysis.wording import count, number
from dashpot.watching.advice_noise import progress
from dashpot.watching.report_rows import finite, reason_of, step_words, value_at
from dashpot.watching.report_sentence import Sentence
from dashpot.watching.series import WatchRecord

ABSENT = "There is no noise scale yet: it needs `sliced` and `size` in `watcher.observe`, and time within the budget."
DOMINANT = 3.0
"""Ratio of noise scale to batch size, or its inverse, from which the batch size should change."""
FACTOR = 4
"""Factor between batch sizes that sentences compare."""
WIDE = 10.0
"""Ratio of the ends of an interval above which the noise scale is uncertain."""


class NoiseRow(NamedTuple):
    """Noise scale at a step, in units of the rates if the method has denominators and this estimate exists."""

    step: int
    scale: float
    low: float | None
    high: float | None
    batch: float
    samples: float | None
    is_preconditioned: bool


def noise_rows(record: WatchRecord) -> list[NoiseRow]:
    """Return the rows with a noise scale and a batch size."""
    adaptive = bool(record.header.get("adaptive"))
    found = [_row(row, adaptive) for row in record.rows("noise")]
    return [row for row in found if row is not None]


def _row(row: dict[str, Any], adaptive: bool) -> NoiseRow | None:
    preconditioned = adaptive and value_at(row, "preconditioned.scale") is not None
    values = row["preconditioned"] if preconditioned else row
    scale, batch = value_at(values, "scale"), value_at(row, "batch")
    if scale is None or batch is None or scale <= 0:
        return None
    ends = value_at(values, "low"), value_at(values, "high")
    return NoiseRow(row["step"], scale, *ends, batch, finite(row.get("samples")), preconditioned)


def noise(record: WatchRecord) -> Sentence | str:
    """Compare the noise scale with the batch size, with the cost of a larger or smaller batch."""
    rows = noise_rows(record)
    if not rows:
        return reason_of(record, "noise", ABSENT)
    row = rows[-1]
    finding, start, action = _balance(row)
    kind = "preconditioned noise scale" if row.is_preconditioned else "noise scale"
    text = f"{start}: both are equal at a batch of {number(row.scale)} ({kind}), the batch is {number(row.batch, 6)}"
    return Sentence("noise", finding, text, row.scale, _confidence(record, row), action)


def _balance(row: NoiseRow) -> tuple[str, str, str]:
    """Return the finding, the start of the sentence and the action.

    A noise scale counts as different from the batch size only if the batch size is outside of the interval.
    """
    scale, batch, low, high = row.scale, row.batch, row.low, row.high
    if scale > DOMINANT * batch and low is not None and low > batch:
        return "noise", "Noise dominates the signal of gradients", _other_batch(row, FACTOR * round(batch))
    if scale * DOMINANT < batch and high is not None and high < batch and batch >= 2:
        start = "The batch is larger than the noise of gradients requires, compared with their signal"
        return "noise", start, _other_batch(row, max(1, round(batch / FACTOR)))
    if low is None or high is None or high > WIDE * low:
        return (
            "uncertain",
            "The ratio of noise to signal of gradients is uncertain",
            "keep the batch size, and measure longer",
        )
    return "balanced noise", "Noise and signal of gradients are balanced", "keep the batch size"


def _other_batch(row: NoiseRow, other: int) -> str:
    """Return the steps and examples at a different batch size for the same progress, at the ends of the interval."""
    ends = row.low or 0.0, row.high
    steps = [row.batch / other if end is None else 1 / progress(end, row.batch, other) for end in ends]
    examples = [other / row.batch * value for value in steps]
    cost = f"{_range(steps)} times the steps and {_range(examples)} times the examples"
    return f"batch {other} takes {cost}; settings: watcher.advise(batch={other})"


def _range(values: Sequence[float]) -> str:
    """Return the smallest and the largest value.

    >>> _range([2.31, 1.0]), _range([1.001, 1.0])
    ('1 to 2.3', '1')
    """
    return " to ".join(dict.fromkeys(number(value, 2) for value in sorted(values)))


def _confidence(record: WatchRecord, row: NoiseRow) -> str:
    if row.low is not None and row.high is not None:
        interval = f"95 % interval {number(row.low)} to {number(row.high)}"
    elif row.low is not None:
        interval = f"95 % interval from {number(row.low)}, without an upper end"
    else:
        interval = "without an interval"
    parts = [interval, step_words(record, row.step)]
    return ", ".join([*parts, *([] if row.samples is None else [count(row.samples, "measurement", digits=4)])])
