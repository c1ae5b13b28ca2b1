"""Tables of runs in CSV files: dialects, columns and rows."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dashpot.errors import DataError
from dashpot.utils.terminal import printable

KEYS: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "steps", "iteration", "global_step"),
    "seed": ("seed",),
    "method": ("method", "optimizer"),
}
"""Accepted titles of the required columns, in lower case."""
DELIMITERS = ",;\t|"
LARGEST = 2**53
HEAD = 2**16
"""Number of characters in which the titles are searched to find the delimiter."""
MISSING = frozenset(("", "NA", "N/A", "null", "None"))
"""Cells of missing values."""
MOST_TITLES = 8
"""Number of titles in an error message; tables with a column per run have many."""


class CsvRow(NamedTuple):
    """Row of a run: line in the file, key of the run, step, and the measured values; empty cells are omitted."""

    line: int
    method: str
    seed: int
    step: int
    values: dict[str, float]


@dataclass
class Columns:
    """Columns of a table.

    Attributes:
        keys: Positions of the required columns by name.
        metrics: Positions of the metrics by title.
        count: Number of columns.
        numeric: Titles of the columns with numbers.
        texts: For each column with text, the first line with it, and the text.
    """

    keys: Mapping[str, int]
    metrics: dict[str, int]
    count: int
    numeric: set[str] = field(default_factory=set)
    texts: dict[str, tuple[int, str]] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[Columns, list[CsvRow]]:
    """Read a table with the columns step, seed, method and at least one metric, in any order.

    Titles are compared without case. The delimiter is a comma, semicolon, tab or bar; with semicolons, numbers may have
    decimal commas. Empty cells of metrics, and "NA", "null" and "None", are missing values; "nan" and "inf" are values.
    Columns that contain only text are not metrics. Lines before the titles that start with "#" are comments.

    Args:
        path: CSV file in UTF-8.

    Returns:
        The columns, those with numbers as metrics, and the rows.

    Raises:
        DataError: If the file cannot be read or is empty, or a column is missing, repeated or partly without numbers.
            The message names the line of a bad row.
    """
    text = _text(path)
    delimiter = _delimiter(text)
    lines = _lines(path, text, delimiter)
    titles = next((cells for _, cells in lines if not cells[0].startswith("#")), None)
    if titles is None:
        raise DataError(f"{path} is empty; a table of runs has the columns step, seed, method and a metric.")
    columns = _columns(path, titles)
    rows = [_row(path, number, cells, columns, decimal=delimiter == ";") for number, cells in lines]
    if not rows:
        raise DataError(f"{path} has a header but no rows.")
    for title in columns.texts:
        del columns.metrics[title]
    if not columns.metrics:
        title, found = next(iter(columns.texts.items()))
        raise _not_a_number(path, title, *found)
    return columns, rows


def _lines(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of each line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for line in reader:
            cells = [cell.strip() for cell in line]
            if any(cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a valid CSV line ({error}).") from error


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 (byte {error.start}).") from error


def _delimiter(text: str) -> str:
    """Return the delimiter that is most frequent in the first line that is neither empty nor a comment."""
    header = next((line for line in text[:HEAD].splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    return max(DELIMITERS, key=header.count)


def _columns(path: Path, titles: Sequence[str]) -> Columns:
    lower = [title.lower() for title in titles]
    repeated = sorted({title for title in lower if lower.count(title) > 1 and title})
    if repeated:
        raise DataError(f"{path} has more than one column {repeated[0]!r}.")
    keys: dict[str, int] = {}
    for name, accepted in KEYS.items():
        found = [k for k, title in enumerate(lower) if title in accepted]
        if len(found) != 1:
            problem = "more than one" if found else "no"
            more = f" and {len(titles) - MOST_TITLES} more" if len(titles) > MOST_TITLES else ""
            raise DataError(
                f"{path} has {problem} column {name!r}; its columns are "
                f"{', '.join(map(repr, titles[:MOST_TITLES]))}{more}. Each row must have one step, seed and method, "
                "as in step,seed,method,loss."
            )
        keys[name] = found[0]
    metrics = {title: k for k, title in enumerate(titles) if title and k not in keys.values()}
    if not metrics:
        raise DataError(f"{path} has no column of a metric, such as 'loss'.")
    return Columns(keys, metrics, len(titles))


def _row(path: Path, line: int, cells: Sequence[str], columns: Columns, *, decimal: bool) -> CsvRow:
    if len(cells) != columns.count:
        raise DataError(f"{path}, line {line}: {len(cells)} cells, but the header has {columns.count}.")
    method = cells[columns.keys["method"]]
    if not method:
        raise DataError(f"{path}, line {line}: the method is empty.")
    if not method.isprintable():
        raise DataError(f"{path}, line {line}: the method contains an invisible character, {printable(method)[:60]!r}.")
    step, seed = (_count(path, line, name, cells[columns.keys[name]]) for name in ("step", "seed"))
    values = {}
    for title, k in columns.metrics.items():
        if cells[k] not in MISSING:
            value = _number(cells[k], decimal=decimal)
            if value is not None:
                values[title] = value
                columns.numeric.add(title)
            else:
                columns.texts.setdefault(title, (line, cells[k]))
            if title in columns.numeric and title in columns.texts:
                raise _not_a_number(path, title, *columns.texts[title])
    return CsvRow(line, method, seed, step, values)


def _count(path: Path, line: int, name: str, text: str) -> int:
    """Parse an integer, which other programs may write as 100.0 or 1e3."""
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= LARGEST and value == int(value)):
        raise DataError(f"{path}, line {line}: {name} must be an integer >= 0, got {text[:60]!r}.")
    return int(value)


def _not_a_number(path: Path, title: str, line: int, text: str) -> DataError:
    return DataError(f"{path}, line {line}: {title} must be a number, got {text[:60]!r}.")


def _number(text: str, *, decimal: bool) -> float | None:
    """Return a number; None for text."""
    try:
        return None if "_" in text else float(text.replace(",", ".") if decimal else text)
    except ValueError:
        return None


_SPLIT = re.compile(r"(train|training|val|valid|validation|eval|evaluation|dev|test)[ _/.-]+(.+)", re.IGNORECASE)
_SPLITS = {"tr": "train", "te": "test"}


def split_of(title: str) -> tuple[str, str]:
    """Return the data and the metric of a column: "train", "validation" (also if not stated) or "test".

    >>> split_of("Train_Loss"), split_of("val/accuracy"), split_of("test_acc"), split_of("loss")
    (('train', 'loss'), ('validation', 'accuracy'), ('test', 'acc'), ('validation', 'loss'))
    """
    found = _SPLIT.fullmatch(title)
    if found is None:
        return "validation", title.lower()
    return _SPLITS.get(found[1].lower()[:2], "validation"), found[2].lower()


def runs_of(path: Path, rows: Sequence[CsvRow]) -> Iterator[tuple[str, int, list[CsvRow]]]:
    """Yield method, seed and rows of each run; the rows are ordered by step.

    Raises:
        DataError: If a step of a run occurs twice.
    """
    runs: dict[tuple[str, int], list[CsvRow]] = {}
    for row in rows:
        runs.setdefault((row.method, row.seed), []).append(row)
    for (method, seed), own in runs.items():
        own.sort(key=lambda row: row.step)
        for before, after in pairwise(own):
            if before.step == after.step:
                raise DataError(
                    f"{path}, line {after.line}: step {after.step} of {method} seed {seed} occurs twice, "
                    f"first in line {before.line}."
                )
        yield method, seed, own
