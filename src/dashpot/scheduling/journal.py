"""Journal file of an Optuna storage: one JSON object a line, appended under a lock and flushed to disk.

A process that is killed while it appends leaves an incomplete last line. Readers ignore it, and the next writer removes
it under the lock. No process therefore reads half a line, and a kill never makes the file unreadable.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock

from dashpot.errors import RunError
from dashpot.scheduling.file_lock import HAS_FLOCK, wait_for_lock

_START = b'{"op_code":'
_BLOCK = 65536


class JournalFile(BaseJournalBackend):
    """Backend of `optuna.storages.JournalStorage` with a file for all processes of a machine.

    Args:
        path: The file, created if missing; its folder must exist. Journals written by Optuna's own backend can be read.

    Raises:
        RunError: If the file cannot be created or is not a journal.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = JournalFile(Path(folder, "study.journal"))
        ...     journal.append_logs([{"op_code": 0, "worker_id": "a", "study_name": "s", "directions": [1]}])
        ...     [log["study_name"] for log in journal.read_logs(0)], list(journal.read_logs(1))
        (['s'], [])
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets = {0: 0}
        with self._errors("create"), path.open("ab"):
            pass
        with self._errors("read"), path.open("rb") as file:
            self._check_start(file.read(len(_START)))

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the records from the given number on; the bytes of earlier records are not read again."""
        start = log_number_from if log_number_from in self._offsets else 0
        offset = self._offsets[start]
        offsets = {start: offset}
        lines = self._complete_lines(offset)
        for number, line in enumerate(lines, start + 1):
            offset += len(line) + 1
            offsets[number] = offset
        self._offsets = offsets
        for number, line in enumerate(lines, start):
            if number >= log_number_from:
                yield self._decoded(line, number)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records and flush them to disk, or leave the file unchanged."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._errors("write"), self._locked() as descriptor:
            size = self._repair(descriptor)
            try:
                _write_all(descriptor, text)
                os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, size)
                raise

    def _complete_lines(self, offset: int) -> list[bytes]:
        with self._errors("read"), self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                raise RunError(f"The journal {self.path} has been truncated or replaced; run the command again.")
            file.seek(offset)
            content = file.read()
        return content.split(b"\n")[:-1]

    def _decoded(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            log = json.loads(line)
            if isinstance(log["op_code"], int) and isinstance(log["worker_id"], str):
                return log
        except (ValueError, TypeError, KeyError, RecursionError):
            pass
        raise RunError(
            f"The journal {self.path} is damaged in line {number + 1}: restore a copy, or remove the file and run the "
            f"command again; finished records in the folder are kept."
        )

    def _check_start(self, start: bytes) -> None:
        if not (start.startswith(_START) or _START.startswith(start)):
            raise RunError(f"{self.path} is not the journal of a study: choose another file or folder.")

    def _repair(self, descriptor: int) -> int:
        """Remove an incomplete last line, and return the size of the file."""
        size = end = os.fstat(descriptor).st_size
        while end > 0:
            begin = max(0, end - _BLOCK)
            os.lseek(descriptor, begin, os.SEEK_SET)
            found = os.read(descriptor, end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        if end < size:
            os.lseek(descriptor, 0, os.SEEK_SET)
            self._check_start(os.read(descriptor, len(_START)))
            os.ftruncate(descriptor, end)
        os.lseek(descriptor, end, os.SEEK_SET)
        return end

    @contextmanager
    def _locked(self) -> Iterator[int]:
        lock = None if HAS_FLOCK else JournalFileOpenLock(str(self.path))
        if lock is not None:
            lock.acquire()
        descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            if lock is None:
                wait_for_lock(descriptor, self.path)
            yield descriptor
        finally:
            os.close(descriptor)
            if lock is not None:
                lock.release()

    @contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"Cannot {action} the journal {self.path}: {error.strerror or error}; solve this and run the command "
                f"again, finished items are kept."
            ) from error


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
