"""Bounded records of a watched run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LIMIT = 512
"""Largest number of rows of a series in memory."""
_NEWEST = 128  # newest rows, which are never thinned


class Series:
    """Rows of one kind, each a dict with "step"; old rows are thinned, so that memory is bounded.

    Args:
        limit: Largest number of rows.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self.rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, and drop every second one of the older rows if the series is full."""
        self.rows.append(row)
        if len(self.rows) > self.limit:
            self.rows = [*self.rows[:-_NEWEST:2], *self.rows[-_NEWEST:]]

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

    Attributes:
        header: Constant facts: optimizer, parameter names and shapes, budget, periods.
        series: Rows by kind, such as "norms" or "noise".
    """

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self.series: dict[str, Series] = {}

    def add(self, kind: str, row: dict[str, Any]) -> None:
        """Append a row of one kind; `row` contains "step"."""
        self.series.setdefault(kind, Series()).add(row)

    def prepend(self, kind: str, rows: Series) -> None:
        """Insert older rows before those of one kind."""
        newer, self.series[kind] = self.series.get(kind, Series()), Series()
        for row in (*rows, *newer):
            self.add(kind, row)

    def rows(self, kind: str) -> Series:
        """Return the rows of one kind, empty if there are none."""
        return self.series.get(kind, Series())

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-serializable data."""
        return {"header": self.header, "series": {kind: list(rows) for kind, rows in self.series.items()}}

    @classmethod
    def of_dict(cls, data: dict[str, Any]) -> WatchRecord:
        """Return the record of data from `to_dict`."""
        record = cls(data["header"])
        for kind, rows in data["series"].items():
            for row in rows:
                record.add(kind, row)
        return record
