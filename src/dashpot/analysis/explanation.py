"""Explanation of a method or schedule: sentences, a table, and figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dashpot.analysis.page_result import PageResult
from dashpot.analysis.result import NOTES, Analysis, Quantity, text_of
from dashpot.analysis.wording import unbroken
from dashpot.figures import Page, Section, html_table, paragraphs
from dashpot.figures.axes import COLUMNS, new_panels
from dashpot.utils.html import element, escape, page_part, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 88
_LONGEST = 18
"""Longest value in the column of values."""
_MOST_PARTS = 8
"""Largest number of parts in texts, pages and notebooks."""


class Detail(NamedTuple):
    """Result of an analysis with a heading, the number of axes of its figure, and rows in place of its quantities."""

    title: str
    result: Analysis
    panels: int
    rows: Sequence[Quantity] | None = None


@dataclass(frozen=True)
class Part:
    """Explanation of one recipe or schedule.

    Attributes:
        label: The parameter groups to which the part applies; empty if there is only one part.
        subject: Expression of the recipe or schedule.
        sentences: Results in words.
        notes: Conditions of the results, and exceptions.
        numbers: Settings of a method, or values of a schedule.
        details: Results with figures.
        data: The recipe or schedule as plain data.
        heading: Heading of `numbers`.
        extra: Further tables by heading.
    """

    label: str
    subject: str
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: tuple[Quantity, ...]
    details: tuple[Detail, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    heading: str = "Settings"
    extra: Mapping[str, list[Quantity]] = field(default_factory=dict)

    def tables(self) -> dict[str, list[Quantity]]:
        """Return the rows of all tables by heading."""
        found = {self.heading: list(self.numbers)}
        seen = {item.name for item in self.numbers}.union(NOTES)
        for detail in self.details:
            if detail.rows is None:
                found[detail.title] = [item for item in detail.result.quantities() if item.name not in seen]
                seen |= {item.name for item in found[detail.title]}
            else:
                found[detail.title] = list(detail.rows)
        return {**found, **self.extra}

    def quantities(self) -> list[Quantity]:
        """Return the settings and the numbers of all results, without repetitions."""
        nested = self._nested()
        return [item for title, items in self.tables().items() if title not in nested for item in items]

    def _nested(self) -> set[str]:
        """Return the headings of tables whose names may be those of other tables."""
        return {*self.extra, *(detail.title for detail in self.details if detail.rows is not None)}

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON-serializable data."""
        tables = self.tables()
        return {
            "label": self.label,
            "subject": dict(self.data),
            "sentences": list(self.sentences),
            "notes": list(self.notes),
            **{item.name: item.value for item in self.quantities()},
            **{
                title.lower().replace(" ", "_"): {item.name: item.value for item in tables[title]}
                for title in sorted(self._nested())
            },
        }


@dataclass(frozen=True, repr=False)
class Explanation(PageResult, Analysis):
    """Result of `dashpot.explain`.

    Attributes:
        title: Name of the method or schedule.
        parts: One part for each distinct recipe of the parameter groups.
    """

    title: str
    parts: tuple[Part, ...]

    def summary(self) -> str:
        """Return the result in sentences, with a line for each of the first eight parts."""
        if len(self.parts) == 1:
            return " ".join(self.parts[0].sentences)
        head = f"{self.title} has groups with {len(self.parts)} different settings."
        lines = [f"{_capital(part.label)}: {' '.join(part.sentences)}" for part in self.parts[:_MOST_PARTS]]
        more = len(self.parts) - _MOST_PARTS
        return "\n".join([head, *lines, *([f"{more} more settings are in `parts`."] if more > 0 else [])])

    def quantities(self) -> list[Quantity]:
        """Return the numbers of all parts; with several parts, names begin with the label of the part."""
        if len(self.parts) == 1:
            return self.parts[0].quantities()
        return [item._replace(name=f"{part.label}: {item.name}") for part in self.parts for item in part.quantities()]

    @property
    def notes(self) -> list[str]:
        """Conditions of the results, and exceptions."""
        return list(dict.fromkeys(note for part in self.parts for note in part.notes))

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-serializable data."""
        return {"title": self.title, "summary": self.summary(), "parts": [part.to_dict() for part in self.parts]}

    def __str__(self) -> str:
        """Return the sentences, a table for each part, and the notes."""
        blocks = [_wrapped(self.summary())]
        for part in self.parts[:_MOST_PARTS]:
            blocks += [
                "\n".join([_capital(_titled(part, title)), *_table_lines(items)])
                for title, items in part.tables().items()
            ]
        notes = [textwrap.fill(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ") for note in self.notes]
        if notes:
            blocks.append("\n".join(["Notes", *notes]))
        return "\n\n".join(blocks)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Draw the figures of the first part: for a method, poles and zeros, responses and regions of stable settings.

        Args:
            ax: Axes to draw on, one for each panel, in place of a new figure.
        """
        [part, *_] = self.parts
        panels = max(1, sum(detail.panels for detail in part.details))
        figure, axes = new_panels("Explanation.plot", panels, size=(4.0, 3.2), ax=ax)
        if ax is None:
            _fill_last_row(figure, axes, min(panels, COLUMNS))
            figure.suptitle(part.label)
        if not part.details:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "No figure: no closed form", ha="center", va="center", transform=axes[0].transAxes)
        for detail in part.details:
            own, axes = axes[: detail.panels], axes[detail.panels :]
            detail.result.plot(own if detail.panels > 1 else own[0])
        return figure

    def _page(self, command: str) -> Page:
        return Page(self.title, unbroken(self.summary().partition("\n")[0]), command, self._sections())

    def _sections(self) -> list[Section]:
        sections = []
        for index, part in enumerate(self.parts[:_MOST_PARTS]):
            tables = part.tables()
            words = paragraphs(*map(unbroken, part.sentences)) if part.label else ""
            sections.append(Section(_capital(_titled(part, part.heading)), words + _html_table(tables[part.heading])))
            for detail in part.details:
                figure = detail.result.plot() if index == 0 else None
                content = paragraphs(detail.result.summary()) + _html_table(tables[detail.title])
                sections.append(Section(_capital(_titled(part, detail.title)), content, figure))
            sections += [
                Section(_capital(_titled(part, title)), _html_table(items)) for title, items in part.extra.items()
            ]
        if self.notes:
            sections.append(Section("Conditions", paragraphs(*self.notes)))
        sections.append(
            Section(
                "Expression",
                "".join(f"<p><code>{escape(part.subject)}</code></p>" for part in self.parts[:_MOST_PARTS]),
            )
        )
        return sections

    def _repr_html_(self) -> str:
        """Return sentences, tables and figures for notebooks; without matplotlib, no figures."""
        blocks = [
            element("b", escape(self.title)),
            *(element("div", escape(unbroken(line))) for line in self.summary().split("\n")),
        ]
        for part in self.parts[:_MOST_PARTS]:
            numbers = table(["number", "value", "meaning"], _html_rows(part.quantities()))
            summary = element("summary", escape(_capital(f"{part.label} numbers".strip())))
            blocks.append(element("details", summary + numbers))
        blocks += [element("div", escape(note), "opacity:.7") for note in self.notes]
        return page_part(
            "".join([*blocks, self._inline_figure(f"explain-{self.title.lower()}", f"Figures of {self.title}")])
        )


def _fill_last_row(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Widen the axes of an incomplete last row, so that no cell is empty."""
    last = len(axes) % columns
    if last == 0:
        return
    full = len(axes) - last
    grid = figure.add_gridspec(full // columns + 1, columns * last)
    for index, panel in enumerate(axes):
        place, width = (index % columns, last) if index < full else (index - full, columns)
        panel.set_subplotspec(grid[index // columns, width * place : width * (place + 1)])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, _WIDTH) for line in text.split("\n"))


def _titled(part: Part, title: str) -> str:
    return f"{part.label}: {title.lower()}" if part.label else title


def _cells(item: Quantity) -> tuple[str, str, str]:
    return item.name, _value(item.value), item.meaning


def _value(value: Any) -> str:
    """Format a value; of a text such as the damping regime, the part before the first comma."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_value(item)}" for key, item in value.items())
    is_phrase = isinstance(value, str) and "(" not in value
    return value.partition(", ")[0] if is_phrase else text_of(value)


def _html_rows(items: Sequence[Quantity]) -> list[list[str]]:
    return [[unbroken(text) for text in _cells(item)] for item in items if item.is_defined]


def _html_table(items: Sequence[Quantity]) -> str:
    return html_table(["number", "value", "meaning"], _html_rows(items))


def _table_lines(items: Sequence[Quantity]) -> list[str]:
    """Return a table of numbers; a longer text takes a line of its own."""
    rows = [(*_cells(item), _is_long(item)) for item in items if item.is_defined]
    names = max((len(name) for name, *_ in rows), default=0)
    values = max((len(value) for _, value, _, is_long in rows if not is_long), default=0)
    lines = []
    for name, value, meaning, is_long in rows:
        start = f"  {name:<{names}}  "
        text, indent = (value, 0) if is_long else (f"{value:<{values}}  {meaning}", values + 2)
        lines.append(textwrap.fill(start + text, _WIDTH + 12, subsequent_indent=" " * (len(start) + indent)))
    return lines


def _is_long(item: Quantity) -> bool:
    """Return whether the text table shows a value without its meaning."""
    return isinstance(item.value, Mapping) or len(_value(item.value)) > _LONGEST
