"""Values of the rows of a record, without undefined and non-finite numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from statistics import median
from typing import Any

from dashpot.watching.series import WatchRecord

Curve = tuple[list[int], list[float]]
"""Steps and values."""


def finite(value: Any) -> float | None:
    """Return a finite number, or None for everything else, such as the text "nan" of strict JSON.

    >>> finite(2), finite("nan"), finite(float("inf")), finite(True), finite(None)
    (2.0, None, None, None, None)
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None  # larger integers have no float


def value_at(row: dict[str, Any], path: str) -> float | None:
    """Return the number at a path of keys and indices, such as "preconditioned.scale" or "alpha.0", or None.

    >>> value_at({"a": {"b": 1}, "c": None}, "a.b"), value_at({"a": [2, 3]}, "a.1"), value_at({"c": None}, "c.b")
    (1.0, 3.0, None)
    """
    value: Any = row
    for key in path.split("."):
        value = _item(value, key)
    return finite(value)


def _item(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return value[int(key)] if key.isdigit() and int(key) < len(value) else None
    return value.get(key) if isinstance(value, dict) else None


def curve(record: WatchRecord, kind: str, path: str) -> Curve:
    """Return the steps and the finite values of a series at a path of keys."""
    pairs = [(row["step"], value_at(row, path)) for row in record.rows(kind)]
    found = [(step, value) for step, value in pairs if value is not None]
    return [step for step, _ in found], [value for _, value in found]


def loss_curve(record: WatchRecord) -> Curve:
    """Return the means of eight losses, or the losses at the measured steps, if those are more."""
    return max((curve(record, kind, "loss") for kind in ("loss", "norms")), key=lambda points: len(points[0]))


def newest(record: WatchRecord, kind: str, *paths: str) -> dict[str, Any] | None:
    """Return the newest row in which all paths are finite numbers, or None."""
    for row in reversed(record.rows(kind).rows):
        if all(value_at(row, path) is not None for path in paths):
            return row
    return None


def reason_of(record: WatchRecord, kind: str, absent: str) -> str:
    """Return the reason in the newest row of a kind, that it waits for the budget, or the sentence `absent`."""
    last, costs = record.rows(kind).last, record.rows("cost").last
    if last is not None and last.get("reason"):
        return str(last["reason"])
    if costs is not None and kind in costs.get("waiting", ()):
        known = "" if record.header.get("steps") else ", or pass `steps` to `watch`"
        return f"The budget has not covered a measurement of {kind} yet: raise `budget`{known}."
    return absent


def is_old(record: WatchRecord, step: int) -> bool:
    """Return whether a measurement is from the first half of the run so far."""
    return 2 * step < last_step(record)


def step_words(record: WatchRecord, step: int) -> str:
    """Return the step of a measurement, and the newest step if the measurement is old."""
    return f"step {step} of {last_step(record)}" if is_old(record, step) else f"step {step}"


def last_step(record: WatchRecord) -> int:
    """Return the newest step of all rows, 0 if there are none."""
    return max((rows.last["step"] for rows in record.series.values() if rows.last is not None), default=0)


def tensor_curves(record: WatchRecord, kind: str, path: str, table: str = "tensors") -> dict[str, Curve]:
    """Return the finite values of each tensor by name, in the order of the header.

    Args:
        record: The record.
        kind: Kind of rows.
        path: Keys of the value in the row of a tensor.
        table: Key of the rows of tensors.
    """
    names = [*record.header.get("tensors", {})]
    found: dict[str, Curve] = {name: ([], []) for name in names}
    for row in record.rows(kind):
        for name, value in _of_tensors(row, path, table):
            steps, values = found.setdefault(name, ([], []))
            steps.append(row["step"])
            values.append(value)
    return {name: points for name, points in found.items() if points[0]}


def newest_by_tensor(record: WatchRecord, kind: str, path: str, table: str = "tensors") -> dict[str, float]:
    """Return the newest finite value of each tensor."""
    return {name: values[-1] for name, (_, values) in tensor_curves(record, kind, path, table).items()}


def median_curve(record: WatchRecord, kind: str, path: str, table: str = "tensors") -> Curve:
    """Return the median over the tensors of each row."""
    found = [(row["step"], [value for _, value in _of_tensors(row, path, table)]) for row in record.rows(kind)]
    return [step for step, own in found if own], [median(own) for _, own in found if own]


def _of_tensors(row: dict[str, Any], path: str, table: str) -> Iterator[tuple[str, float]]:
    for name, own in (row.get(table) or {}).items():
        value = value_at(own, path) if isinstance(own, dict) else None
        if value is not None:
            yield name, value


def span_medians(points: Curve, most: int) -> Curve:
    """Return the medians of at most `most` equal spans of steps, at the last step of each span.

    >>> span_medians(([1, 2, 3, 4], [1.0, 2.0, 5.0, 7.0]), 2)
    ([2, 4], [1.5, 6.0])
    """
    steps, values = points
    if len(steps) <= most:
        return points
    spans: dict[int, list[int]] = {}
    for index, step in enumerate(steps):
        spans.setdefault((step - steps[0]) * most // (steps[-1] - steps[0] + 1), []).append(index)
    chosen = spans.values()
    return [steps[own[-1]] for own in chosen], [median(values[index] for index in own) for own in chosen]
