"""Self-contained HTML pages with interactive figures."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.errors import ArgumentError
from dashpot.figures.charts import chart
from dashpot.figures.palette import VARIABLES
from dashpot.figures.saving import write_file
from dashpot.figures.tags import slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = ("#f6f7f9", "#1b1f25")


@dataclass(frozen=True)
class Section:
    """Section of a page: heading, HTML, figure and note, in this order.

    Args:
        title: Heading.
        html: HTML below the heading, inserted without escaping; `html_table` and `paragraphs` return escaped HTML.
        figure: Matplotlib figure.
        note: Text in small print below the figure.
        key: Prefix of the ids of the section, unique on the page. Default: derived from the title.
    """

    title: str
    html: str = ""
    figure: Figure | None = None
    note: str = ""
    key: str = ""


@dataclass(frozen=True)
class Page:
    """Content of a page.

    Args:
        title: Title and first heading.
        lead: Result in one or two sentences.
        command: Command that produces the page; empty to omit it.
        sections: Sections in order.
    """

    title: str
    lead: str = ""
    command: str = ""
    sections: Sequence[Section] = ()


def render_page(page: Page) -> str:
    """Return a page as one self-contained HTML document.

    The page contains its style, its script and its figures as SVG, and loads nothing. A pointer, a finger or the arrow
    keys show the values of the series of a figure; a click on a label or a legend entry toggles a series. Colors follow
    the light or dark theme of the system, and prints are light. On narrow screens, a narrow drawing replaces each
    figure. Without JavaScript, the figures are static.

    Raises:
        ArgumentError: If jinja2 or matplotlib is not installed, or if two sections have the same key.

    Example:
        >>> page = Page("Momentum", "It is an average.", sections=[Section("Claim", paragraphs("a < b"))])
        >>> "<p>a &lt; b</p>" in render_page(page)
        True
    """
    keys = [section.key or slug(section.title) for section in page.sections]
    for key in keys:
        if keys.count(key) > 1:
            raise ArgumentError(f"render_page: the keys of sections must be distinct, got {key!r} twice.")
    sections = [
        {
            "key": key,
            "title": section.title,
            "html": section.html,
            "chart": "" if section.figure is None else chart(section.figure, key=key, title=section.title),
            "note": section.note,
        }
        for key, section in zip(keys, page.sections, strict=True)
    ]
    return render_template(
        "dashpot.figures", "page.html.jinja", title=page.title, lead=page.lead, command=page.command, sections=sections
    )


def write_page(page: Page, path: Path | str) -> Path:
    """Write a page atomically, and return its path; missing folders are created.

    Raises:
        ArgumentError: As for `render_page`.
        RunError: If the file cannot be written.
    """
    return write_file(Path(path), render_page(page).encode())


def render_template(package: str, name: str, **values: Any) -> str:
    """Return a template of a package, which can extend `page.html.jinja`, with the style and script of pages."""
    try:
        import jinja2
    except ImportError as error:
        raise ArgumentError("Pages need jinja2: pip install 'dashpot[plot]'.") from error
    folder = Path(__file__).parent
    loaders = [jinja2.PackageLoader(*package.rpartition(".")[::2]), jinja2.PackageLoader("dashpot", "figures")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    shared = {
        "theme": _theme(),
        "css": (folder / "page.css").read_text(encoding="utf-8"),
        "script": (folder / "page.js").read_text(encoding="utf-8"),
    }
    return environment.get_template(name).render(**shared, **values)


def _theme() -> str:
    """Return the CSS variables of both themes; prints are light."""
    light = "".join(f"--{name}:{hue.light};" for name, hue in VARIABLES.items()) + f"--panel:{PANEL[0]};"
    dark = "".join(f"--{name}:{hue.dark};" for name, hue in VARIABLES.items()) + f"--panel:{PANEL[1]};"
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        "@media print{:root{color-scheme:light}}"
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an escaped HTML table whose first column contains row headings.

    Columns whose cells all begin with a digit, sign or parenthesis are right-aligned, other columns are left-aligned.

    >>> "<td>1.5</td>" in html_table(["name", "value"], [["gain", "1.5"]])
    True
    """
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [all(row[column][:1] in "0123456789-+−.(" for row in cells) for column in range(len(header))]
    kinds = ["" if is_number else ' class="text"' for is_number in numeric]
    head = "".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    lines = []
    for row in cells:
        rest = zip(row[1:], kinds[1:], strict=True)
        lines.append(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in rest)
            + "</tr>"
        )
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def paragraphs(*texts: str) -> str:
    """Return escaped paragraphs.

    >>> paragraphs("a < b")
    '<p>a &lt; b</p>'
    """
    return "\n".join(f"<p>{html.escape(text)}</p>" for text in texts)
