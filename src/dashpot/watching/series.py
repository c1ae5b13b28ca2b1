"""Bounded records of a watched run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from dashpot.utils.strict_json import strict

LIMIT = 512
"""Largest number of rows of a series in memory."""
MEMORY_ONLY = frozenset({"pulse"})
"""Kinds of rows that are not stored."""
_TENSOR_ROWS = 64_000  # largest number of entries by tensor in a series; a few hundred bytes each
_FEWEST = 32
_PENDING = 64
_KEPT = frozenset({"pulse", "warning"})  # kinds of rows that a skipped step keeps


class Series:
    """Rows of one kind, each a dict with "step"; old rows are thinned, so that memory is bounded.

    Args:
        limit: Largest number of rows. Rows with many tensors have a lower limit.
        thinned: Whether to thin the older rows; otherwise, the oldest row is dropped.
    """

    def __init__(self, limit: int = LIMIT, *, thinned: bool = True) -> None:
        self.limit, self.thinned = limit, thinned
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row. If the series is full, drop every second one of the older rows, or the oldest row."""
        self.rows.append(row)
        limit = min(self.limit, max(_FEWEST, _TENSOR_ROWS // max(len(row.get("tensors") or ()), 1)))
        if len(self.rows) > limit:
            newest = limit // 4 if self.thinned else limit
            self.rows = [*(self.rows[:-newest:2] if self.thinned else ()), *self.rows[-newest:]]

    @property
    def last(self) -> dict[str, Any] | None:
        """The newest row, or None."""
        return self.rows[-1] if self.rows else None

    def column(self, name: str) -> tuple[list[int], list[Any]]:
        """Return the steps and values of the rows in which `name` is not None."""
        found = [(row["step"], row[name]) for row in self.rows if row.get(name) is not None]
        return [step for step, _ in found], [value for _, value in found]


class WatchRecord:
    """All measurements of a watched run, as JSON-serializable data: the source of reports, pages and advice.

    Rows of the kind "pulse" exist only in memory. Numbers that are not finite are None in all other rows.

    Attributes:
        header: Constant facts: optimizer, parameter names and shapes, budget, periods.
    """

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self._series: dict[str, Series] = {}
        self._pending: list[tuple[str, Callable[[], dict[str, Any] | None]]] = []

    @property
    def series(self) -> dict[str, Series]:
        """Rows by kind, such as "norms" or "noise"."""
        self.flush()
        return self._series

    def add(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row of one kind; `row` contains "step"."""
        if kind not in self._series:
            self._series[kind] = Series(thinned=kind not in MEMORY_ONLY)
        self._series[kind].add(row if kind in MEMORY_ONLY else _finite(row))

    def add_later(self, kind: str, make: Callable[[], dict[str, Any] | None]) -> None:
        """Append the row that `make` returns when the record is next read, so that tensors are read later.

        None means no row. On accelerators, this delays the synchronization with the host.
        """
        self._pending.append((kind, make))
        if len(self._pending) >= _PENDING:
            self.flush()

    def flush(self, kind: str | None = None) -> None:
        """Create the rows of `add_later`, of one kind or of all."""
        pending, self._pending = self._pending, []
        for own, make in pending:
            if kind not in (None, own):
                self._pending.append((own, make))
            elif (row := make()) is not None:
                self.add(own, row)

    def drop(self, step: int) -> None:
        """Remove the rows of a skipped step, except warnings."""
        for kind, rows in self._series.items():
            while kind not in _KEPT and rows.last is not None and rows.last["step"] == step:
                rows.rows.pop()

    def prepend(self, kind: str, rows: Series) -> None:
        """Insert older rows before those of one kind."""
        newer, self.series[kind] = self.series.get(kind, Series()), Series()
        for row in (*rows, *newer):
            self.add(kind, row)

    def rows(self, kind: str) -> Series:
        """Return the rows of one kind, empty if there are none."""
        self.flush(kind)
        return self._series.get(kind, Series())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-serializable data."""
        stored = {kind: list(rows) for kind, rows in self.series.items() if kind not in MEMORY_ONLY}
        return {"header": strict(self.header), "series": stored}

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> WatchRecord:
        """Return the record of data from `to_dict`."""
        record = cls(data["header"])
        for kind, rows in data["series"].items():
            for row in rows:
                record.add(kind, row)
        return record


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a copy with None instead of numbers that are not finite, which JSON cannot represent, and the reason.

    A row of finite numbers is returned unchanged; encoding it is the fastest check.
    """
    if _is_json(row):
        return row
    found: list[str] = []
    clean = _cleaned(row, "", found)
    if found and not clean.get("reason"):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        clean["reason"] = f"Not finite: {', '.join(found[:3])}{more}."
    return clean


def _is_json(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, allow_nan=False)
    except ValueError:
        return False
    return True


def _cleaned(value: Any, path: str, found: list[str]) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        found.append(path)
        return None
    if isinstance(value, dict):
        return {key: _cleaned(item, f"{path} {key}".strip(), found) for key, item in value.items()}
    return [_cleaned(item, path, found) for item in value] if isinstance(value, (list, tuple)) else value
