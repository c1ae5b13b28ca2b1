"""Tables of runs in CSV files: dialects, columns and rows."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dashpot.errors import DataError

KEYS: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "steps", "iteration", "global_step"),
    "seed": ("seed",),
    "method": ("method", "optimizer"),
}
"""Accepted titles of the required columns, in lower case."""
DELIMITERS = ",;\t|"
LARGEST = 2**53


class CsvRow(NamedTuple):
    """Row of a run: line in the file, key of the run, step, and the measured values; empty cells are omitted."""

    line: int
    method: str
    seed: int
    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Columns:
    """Positions of the columns of a table: required ones by name, and metrics by title."""

    keys: Mapping[str, int]
    metrics: Mapping[str, int]
    count: int


def read_rows(path: Path) -> tuple[Columns, list[CsvRow]]:
    """Read a table with the columns step, seed, method and at least one metric, in any order.

    Titles are compared without case. The delimiter is a comma, semicolon, tab or bar; with semicolons, numbers may have
    decimal commas. Empty cells of metrics are missing values; "nan" and "inf" are values.

    Args:
        path: CSV file in UTF-8.

    Raises:
        DataError: If the file cannot be read or is empty, or a column is missing, repeated or without numbers. The
            message names the line of a bad row.
    """
    text = _text(path)
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a valid CSV line ({error}).") from error
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if not lines:
        raise DataError(f"{path} is empty; a table of runs has the columns step, seed, method and a metric.")
    columns = _columns(path, lines[0][1])
    rows = [_row(path, number, cells, columns, decimal=delimiter == ";") for number, cells in lines[1:]]
    if not rows:
        raise DataError(f"{path} has a header but no rows.")
    return columns, rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 (byte {error.start}).") from error


def _delimiter(text: str) -> str:
    """Return the delimiter that is most frequent in the first line that is not empty."""
    header = next((line for line in text.splitlines() if line.strip()), "")
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
            raise DataError(f"{path} has {problem} column {name!r}; its columns are {', '.join(map(repr, titles))}.")
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
    step, seed = (_count(path, line, name, cells[columns.keys[name]]) for name in ("step", "seed"))
    values = {
        title: _number(path, line, title, cells[k], decimal=decimal) for title, k in columns.metrics.items() if cells[k]
    }
    return CsvRow(line, method, seed, step, values)


def _count(path: Path, line: int, name: str, text: str) -> int:
    """Parse an integer, which other programs may write as 100.0 or 1e3."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= LARGEST and value == int(value)):
        raise DataError(f"{path}, line {line}: {name} must be an integer >= 0, got {text[:60]!r}.")
    return int(value)


def _number(path: Path, line: int, title: str, text: str, *, decimal: bool) -> float:
    try:
        return float(text.replace(",", ".") if decimal else text)
    except ValueError:
        pass
    raise DataError(f"{path}, line {line}: {title} must be a number, got {text[:60]!r}.")


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
