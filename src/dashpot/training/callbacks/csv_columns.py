"""Contents of CSV files with a header to which columns may be added at the end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from dashpot.utils.terminal import cell, cell_text

FILL = {"kind": "epoch"}
"""Cells of an added column in earlier rows, which are empty for other columns; files without `kind` have no steps."""


def to_line(cells: Iterable[Any]) -> str:
    """Return one line without a line break; None is an empty cell, and formulas get an apostrophe.

    >>> print(to_line(["a,b", None, 0.5, "=1+1"]))
    "a,b",,0.5,'=1+1
    """
    text, given = io.StringIO(), ["" if value is None else value for value in cells]
    csv.writer(text, lineterminator="").writerow([cell(value) if isinstance(value, str) else value for value in given])
    return text.getvalue()


def read_header(content: bytes) -> list[str]:
    """Return the cells of the first line, which are the names of the columns in a CSV file with a header."""
    line, _, _ = content.partition(b"\n")
    try:
        return [cell_text(name) for name in next(_rows(line), [])]
    except (csv.Error, UnicodeDecodeError):
        return [line.decode(errors="replace")]


def add_columns(content: bytes, names: Sequence[str]) -> bytes:
    """Return the contents of a CSV file with additional columns at the end.

    Raises:
        ValueError: If the file is not a CSV file.

    >>> add_columns(b"step,loss\\n1,0.5\\n", ["a"])
    b'step,loss,a\\n1,0.5,\\n'
    """
    try:
        header, *rows = _rows(content)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    filled = [FILL.get(name, "") for name in names]
    padding = [[""] * (len(header) - len(row)) for row in rows]
    lines = [[*header, *names], *([*row, *pad, *filled] for row, pad in zip(rows, padding, strict=True))]
    return "".join(to_line(line) + "\n" for line in lines).encode()


def first_columns(content: bytes, names: Sequence[str], length: int) -> bytes:
    """Return the first `length` bytes of a CSV file after undoing the addition of columns other than `names`."""
    header = read_header(content)
    if not names or header == [*names] or header[: len(names)] != [*names]:
        return content[:length]
    kept, size = [], 0
    try:
        for row in _rows(content):
            kept.append((to_line(row[: len(names)]) + "\n").encode())
            size += len(kept[-1])
            if size >= length:
                break
    except (csv.Error, UnicodeDecodeError):
        return content[:length]
    return b"".join(kept)[:length]


def _rows(content: bytes) -> Any:
    return csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
