"""Explanation of a method or schedule: sentences, a table, and figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.analysis.result import Analysis, Quantity, text_of
from dashpot.errors import ArgumentError
from dashpot.figures import Page, Section, new_figure, render_page, save, svg
from dashpot.figures.saving import write_file
from dashpot.utils.html import element, escape, page_part, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 88
_MOST_PARTS = 8
"""Largest number of parts in figures and notebooks."""


@dataclass(frozen=True)
class Part:
    """Explanation of one recipe or schedule.

    Attributes:
        label: The parameter groups to which the part applies; empty if there is only one part.
        subject: Expression of the recipe or schedule.
        sentences: Results in words.
        notes: Conditions of the results, and what they do not cover.
        numbers: Quantities of the table.
        details: Results with figures, by name.
        data: The recipe or schedule as plain data.
    """

    label: str
    subject: str
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: tuple[Quantity, ...]
    details: Mapping[str, Analysis] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON-serializable data."""
        return {
            "label": self.label,
            "subject": dict(self.data),
            "sentences": list(self.sentences),
            "notes": list(self.notes),
            **{item.name: item.value for item in self.numbers},
        }


@dataclass(frozen=True)
class Explanation(Analysis):
    """Result of `dashpot.explain`.

    Attributes:
        title: Name of the method or schedule.
        parts: One part for each distinct recipe of the parameter groups.
    """

    title: str
    parts: tuple[Part, ...]

    def summary(self) -> str:
        """Return the result in sentences, for every part."""
        if len(self.parts) == 1:
            return " ".join(self.parts[0].sentences)
        head = f"{self.title} has {len(self.parts)} distinct settings."
        return "\n".join([head, *(f"{_capital(part.label)}: {' '.join(part.sentences)}" for part in self.parts)])

    def quantities(self) -> list[Quantity]:
        """Return the numbers of all parts; with several parts, names begin with the label of the part."""
        if len(self.parts) == 1:
            return list(self.parts[0].numbers)
        return [
            item._replace(name=f"{part.label}: {item.name}") for part in self.parts for item in part.numbers
        ]

    @property
    def notes(self) -> list[str]:
        """Conditions of the results, and what they do not cover."""
        return list(dict.fromkeys(note for part in self.parts for note in part.notes))

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-serializable data."""
        return {"title": self.title, "summary": self.summary(), "parts": [part.to_dict() for part in self.parts]}

    def __str__(self) -> str:
        """Return the sentences, a table for each part, and the notes."""
        blocks = [_wrapped(self.summary())]
        for part in self.parts:
            heading = [_capital(part.label)] if part.label else []
            blocks.append("\n".join([*heading, *_table_lines(part.numbers)]))
        notes = [textwrap.fill(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ") for note in self.notes]
        if notes:
            blocks.append("\n".join(["Notes", *notes]))
        return "\n\n".join(blocks)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the figures of the first part on a grid of axes.

        Args:
            ax: `len(self.panels)` axes, in place of a new figure.
        """
        raise NotImplementedError

    def page(self, command: str = "") -> str:
        """Return a self-contained HTML page with sentences, tables and figures.

        Args:
            command: Command to show on the page.

        Raises:
            ArgumentError: If matplotlib or jinja2 is not installed.
        """
        return render_page(Page(self.title, self.summary(), command, self._sections()))

    def save(self, path: Path | str, command: str = "") -> Path:
        """Write the page to an HTML file, or the figure to a PNG, PDF or SVG file, and return the path.

        Raises:
            ArgumentError: If the suffix of `path` is another one.
            RunError: If the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".html":
            return write_file(path, self.page(command).encode())
        return save(self.plot(), path)

    def _sections(self) -> list[Section]:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        """Return sentences, tables and figures for notebooks; without matplotlib, no figures."""
        raise NotImplementedError


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, _WIDTH) for line in text.split("\n"))


def _table_lines(numbers: Sequence[Quantity]) -> list[str]:
    rows = [(item.name, text_of(item.value), item.meaning) for item in numbers]
    names, values = (max((len(row[column]) for row in rows), default=0) for column in range(2))
    return [f"  {name:<{names}}  {value:<{values}}  {meaning}".rstrip() for name, value, meaning in rows]
