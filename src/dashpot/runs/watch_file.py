"""File of the measurements of a watched run, in JSON lines that can be read while the run trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.files import write_error, write_text
from dashpot.runs.watch_schema import FORMAT, TEXTS, check_header, check_row
from dashpot.utils.schema import SchemaError
from dashpot.utils.strict_json import decode, encode
from dashpot.watching.series import MEMORY_ONLY, WatchRecord

LARGEST = 4 * 2**20
"""Size of a file in bytes beyond which older rows are thinned."""
_NUMBERS = {text: float(text) for text in ("nan", "inf", "-inf")}


class WatchFile:
    """Writer of the rows of a record: a header line, then a line for each row.

    Args:
        path: Path of the file.
        record: The record, whose new rows `write` appends.
    """

    def __init__(self, path: Path, record: WatchRecord) -> None:
        self.path, self.record = path, record
        self._written: dict[str, int] = {}  # newest written step by kind

    def start(self) -> None:
        """Write the header and all rows of the record, replacing the file.

        Raises:
            RunError: If the file cannot be written.
        """
        write_text(self.path, "".join(f"{line}\n" for line in _lines(self.record)))
        self._written = {kind: rows.rows[-1]["step"] for kind, rows in self.record.series.items() if len(rows)}

    def write(self) -> None:
        """Append the new rows; if the file has become too large, replace it by the thinned record.

        Raises:
            RunError: If the file cannot be written.
        """
        lines = []
        for kind, rows in self.record.series.items():
            last = self._written.get(kind, -1)
            new = [row for row in reversed(rows.rows) if row["step"] > last] if kind not in MEMORY_ONLY else []
            lines += [encode({"series": kind, **row}) for row in reversed(new)]
            if new:
                self._written[kind] = new[0]["step"]
        if lines and _append(self.path, lines) > LARGEST:
            self.start()


def _append(path: Path, lines: Sequence[str]) -> int:
    """Append lines and return the size of the file; without a sync to disk, which takes as long as a small step."""
    try:
        with path.open("ab") as stream:
            stream.write("".join(f"{line}\n" for line in lines).encode())
            stream.flush()
            return stream.tell()
    except OSError as error:
        raise write_error(path, error) from error


def _lines(record: WatchRecord) -> Iterator[str]:
    yield encode({"kind": "header", "format": FORMAT, **record.header})
    for kind, rows in record.series.items():
        if kind not in MEMORY_ONLY:
            yield from (encode({"series": kind, **row}) for row in rows)


def read_watch_file(path: Path, until: int | None = None) -> WatchRecord:
    """Read the record of a watched run, ignoring an incomplete last line.

    Args:
        path: Path of the file.
        until: Last step of the rows to keep. Default: all.

    Raises:
        RunError: If the file is missing, cannot be read, is damaged before its last line, or has a different format.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{path} does not exist: the run was not watched; train it with --watch.") from error
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from error
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    if not lines:
        raise RunError(f"{path} is damaged: it has no header.")
    record = WatchRecord(_parsed(path, 1, lines[0], check_header))
    newest: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        row = _parsed(path, number, line, check_row)
        kind = row.pop("series")  # "kind" is a key of warnings
        if row["step"] < newest.setdefault(kind, 0):
            raise _damaged(path, number)
        newest[kind] = row["step"]
        if until is None or row["step"] <= until:
            record.add(kind, row)
    for key in ("kind", "format"):
        del record.header[key]
    return record


def _parsed(path: Path, number: int, line: bytes, check: Callable[[Any], None]) -> dict[str, Any]:
    try:
        row = _numbers(decode(line))
        check(row)
    except (SchemaError, ValueError, RecursionError) as error:
        raise _damaged(path, number) from error
    return row


def _damaged(path: Path, number: int) -> RunError:
    return RunError(f"{path} is damaged at line {number}.")


def _numbers(value: Any) -> Any:
    """Convert the strings of non-finite numbers back to numbers, except for texts and names."""
    if isinstance(value, str):
        return _NUMBERS.get(value, value)
    if isinstance(value, dict):
        return {key: item if key in TEXTS else _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return value
