"""Result of an analysis: a summary in words, quantities, and a figure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from dashpot.analysis.wording import number, unbroken
from dashpot.utils.html import element, escape, page_part, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


NOTES = ("reasons", "limits")
"""Quantities that are lists of sentences. The summary contains the reasons."""


class Quantity(NamedTuple):
    """A number of an analysis.

    Attributes:
        name: Identifier, such as "noise_gain"; equals the attribute of the result.
        value: A number, a boolean, a text, a list of numbers, or None if undefined.
        meaning: Explanation in a few words, with the unit.
    """

    name: str
    value: Any
    meaning: str

    @property
    def is_defined(self) -> bool:
        """Whether a table shows the value: undefined values and empty lists are omitted."""
        return self.value is not None and self.value != []


class Analysis(ABC):
    """Base class of the results of `dashpot.analysis`."""

    @abstractmethod
    def summary(self) -> str:
        """Return the result in one to three sentences."""

    @abstractmethod
    def quantities(self) -> list[Quantity]:
        """Return the numbers of the result, most important first."""

    @abstractmethod
    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the result on `ax`, or on a new figure, and return the figure."""

    def to_dict(self) -> dict[str, Any]:
        """Return the summary and the quantities as JSON-serializable data."""
        return {"summary": self.summary(), **{item.name: item.value for item in self.quantities()}}

    def __str__(self) -> str:
        """Return the summary, a table of the defined quantities, and the conditions of the result."""
        rows, notes = self._rows()
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines = [f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {meaning}".rstrip() for name, value, meaning in rows]
        blocks = [self.summary(), "\n".join(lines), "\n".join(f"  - {note}" for note in notes)]
        return "\n\n".join(block for block in blocks if block)

    def _rows(self) -> tuple[list[tuple[str, str, str]], list[str]]:
        """Return the rows of the printed table, without undefined quantities, and the conditions of the result."""
        items = {item.name: item for item in self.quantities() if item.is_defined}
        notes = items["limits"].value if "limits" in items else []
        table = [item for name, item in items.items() if name not in NOTES]
        return [(item.name, text_of(item.value), item.meaning) for item in table], list(notes)

    def __repr__(self) -> str:
        """Return the same as `str`, for interactive sessions."""
        return str(self)

    def _repr_html_(self) -> str:
        """Return the summary, the table and the conditions for notebooks."""
        rows, notes = self._rows()
        parts = [
            element("p", escape(unbroken(self.summary()))),
            table(["number", "value", "meaning"], [[unbroken(cell) for cell in row] for row in rows]) if rows else "",
        ]
        return page_part("".join([*parts, *(element("p", escape(note), "opacity:.7") for note in notes)]))


def text_of(value: Any) -> str:
    """Format a value with at most four significant digits.

    >>> text_of(0.052631578), text_of(None), text_of([1.0, 2.5]), text_of(12345.6), text_of(True)
    ('0.05263', '-', '1, 2.5', '12 350', 'yes')
    """
    if value is None:
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text_of, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, float) else str(value)
