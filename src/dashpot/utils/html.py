"""HTML of values in notebooks, legible on light and dark pages: text and lines have the colour of the page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

LINE = "1px solid rgba(128,128,128,.4)"
_CELL = f"padding:.25em .8em .25em 0;border:0;border-bottom:{LINE};text-align:left;vertical-align:top"
_ROW = "background:none"


def escape(value: object) -> str:
    """Return the text of a value with the special characters of HTML escaped.

    >>> escape("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return html.escape(str(value))


def element(name: str, content: str, style: str = "", **attributes: str) -> str:
    """Return an HTML element; `content` is HTML, the attributes are text.

    >>> element("b", escape("a < b"), "margin:0", title="x")
    '<b title="x" style="margin:0">a &lt; b</b>'
    """
    given = {**attributes, **({"style": style} if style else {})}
    text = "".join(f' {key}="{escape(value)}"' for key, value in given.items())
    return f"<{name}{text}>{content}</{name}>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of texts, escaped, that scrolls horizontally where the page is narrow.

    >>> table(["name"], [["<lr>"]]).count("&lt;lr&gt;")
    1
    """
    lines = [_row("th", header, "font-weight:600")] if header else []
    lines += [_row("td", row, "") for row in rows]
    body = element("table", "".join(lines), "border-collapse:collapse;margin:.4em 0;font-size:inherit")
    return element("div", body, "overflow-x:auto;max-width:100%")


def _row(cell: str, values: Sequence[object], style: str) -> str:
    cells = (element(cell, escape(value), f"{_CELL};{style}".rstrip(";")) for value in values)
    return element("tr", "".join(cells), _ROW)


def page_part(content: str) -> str:
    """Return a block with the font size and line height of all representations in notebooks."""
    return element("div", content, "font-size:.9em;line-height:1.4;max-width:60em")
