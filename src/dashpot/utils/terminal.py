"""Text from files and names, made safe for terminals and spreadsheets."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that make spreadsheets evaluate the text of a cell."""


def printable(text: str) -> str:
    r"""Return text with escape codes and other invisible characters, except line breaks and tabs, as escapes.

    >>> printable("\x1b[31mred\u202e"), printable("two\nlines")
    ('\\x1b[31mred\\u202e', 'two\nlines')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def cell(text: str) -> str:
    """Return the text of a CSV cell, with an apostrophe before text that spreadsheets would evaluate as a formula.

    Numbers are unchanged.

    >>> cell("=1+1"), cell("-0.5"), cell("loss")
    ("'=1+1", '-0.5', 'loss')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _is_number(text) else text


def cell_text(text: str) -> str:
    """Return the text for which `cell` returned `text`.

    >>> cell_text("'=1+1"), cell_text("loss")
    ('=1+1', 'loss')
    """
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
