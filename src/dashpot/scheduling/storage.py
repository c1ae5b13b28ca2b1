"""Storage of studies: a journal file or a database, with retries of each operation during outages."""

from __future__ import annotations

import sys
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dashpot.errors import DashpotError, RunError
from dashpot.scheduling.optuna_library import load_optuna, quiet
from dashpot.scheduling.outages import StorageLost, is_outage, reason
from dashpot.utils.passwords import without_passwords

T = TypeVar("T")
_NOTICE_AFTER = 1.0
_LONGEST_PAUSE = 2.0


class Storage:
    """An Optuna storage whose operations are repeated during outages.

    Attributes:
        label: Path or URL without passwords, for messages.
    """

    def __init__(
        self,
        base: Any,
        label: str,
        *,
        limit: float = 60.0,
        notify: Callable[[str], None] | None = None,
        resume_text: Callable[[], str] | None = None,
    ) -> None:
        self.label = label
        self.limit = limit
        self._resume_text = resume_text or (lambda: "Run the command again to resume.")
        self._base = base
        self._is_lost = False
        self._notify = notify or _print_notice
        self._close = weakref.finalize(self, _dispose, base)

    def call(self, operation: Callable[[Any], T]) -> T:
        """Return `operation(base)` of the Optuna storage; during an outage, repeat it up to the limit.

        An operation may be applied twice if the connection is lost before the answer. After a `StorageLost`, operations
        are not repeated until one has succeeded.

        Raises:
            StorageLost: If the outage is longer than the limit.
            RunError: If the storage rejects the operation.
        """
        start, pause, is_notified = None, 0.05, False
        while True:
            try:
                result = self.attempt(operation)
            except DashpotError:
                raise
            except Exception as error:
                if not is_outage(error):
                    if (translated := _translated(self.label, error)) is not None:
                        raise translated from error
                    raise
                now = time.monotonic()
                start = now if start is None else start
                if self._is_lost or now - start >= self.limit:
                    self._is_lost = True
                    raise self._lost(error) from None
                if now - start >= min(_NOTICE_AFTER, self.limit / 2) and not is_notified:
                    self._notify(f"{self.label} does not answer ({reason(error)}); waiting up to {self.limit:.0f} s.")
                    is_notified = True
            else:
                self._is_lost = False
                return result
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE, self.limit / 4)

    def attempt(self, operation: Callable[[Any], T]) -> T:
        """Return `operation(base)` without retries and with the exceptions of Optuna."""
        with quiet():
            return operation(self._base)

    def end_thread(self) -> None:
        """Close the connection of the current thread."""
        backend = getattr(self._base, "_backend", None)
        if backend is not None and hasattr(backend, "remove_session"):
            backend.remove_session()

    def close(self) -> None:
        """Close all connections."""
        self._close()

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lost(self, error: Exception) -> StorageLost:
        return StorageLost(
            f"{self.label} has not answered for {self.limit:.0f} s ({reason(error)}). {self._resume_text()}"
        )


def open_storage(
    spec: Path | str,
    *,
    limit: float = 60.0,
    notify: Callable[[str], None] | None = None,
    resume_text: Callable[[], str] | None = None,
) -> Storage:
    """Open the storage of a study.

    Args:
        spec: Path of a journal file, created with its folder if missing, or the URL of a database as a string, such as
            "postgresql://user@host/database".
        limit: Longest outage in seconds during which operations are repeated; positive.
        notify: Function called once per outage with a message. Default: print to stderr.
        resume_text: Function that returns the finished work and how to resume, for the message of `StorageLost`.

    Raises:
        RunError: If optuna or a driver is missing, or the file or database cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, open_storage(Path(folder, "study.journal")) as storage:
        ...     storage.call(lambda base: len(base.get_all_studies()))
        0
    """
    optuna = load_optuna()
    if isinstance(spec, Path):
        return Storage(_journal(optuna, spec), str(spec), limit=limit, notify=notify, resume_text=resume_text)
    if "://" not in spec:
        raise RunError(f"The storage must be a URL, such as postgresql://user@host/database, got {spec!r}.")
    with quiet():
        if spec.startswith(("redis://", "rediss://")):
            base = _redis(optuna, spec)
        else:
            from dashpot.scheduling.database import connect

            base = connect(spec, limit)
    return Storage(base, without_passwords(spec), limit=limit, notify=notify, resume_text=resume_text)


def _redis(optuna: Any, url: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalRedisBackend(url))
    except ImportError:
        raise RunError(f"The storage {without_passwords(url)} needs redis: pip install redis.") from None
    except Exception as error:
        if not is_outage(error):
            raise
        raise RunError(
            f"The storage {without_passwords(url)} cannot be reached: {reason(error)}; check address and password."
        ) from None


def _journal(optuna: Any, path: Path) -> Any:
    from dashpot.scheduling.journal import JournalFile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"Cannot create the folder {path.parent}: {error.strerror or error}.") from error
    try:
        with quiet():
            return optuna.storages.JournalStorage(JournalFile(path))
    except AssertionError as error:
        raise _translated(str(path), error) or error from None


def _translated(label: str, error: Exception) -> RunError | None:
    """Return the message for a storage that rejects an operation; None for other errors."""
    # Optuna raises this assertion for unknown operations in a journal.
    if isinstance(error, AssertionError) and "not reach" in str(error):
        return RunError(f"{label} has entries of a newer optuna: pip install -U optuna.")
    is_database_error = any("sqlalchemy" in kind.__module__ for kind in type(error).__mro__)
    if is_database_error or type(error).__name__ == "StorageInternalError":
        return RunError(f"{label} has rejected an operation: {reason(error)}.")
    return None


def _dispose(base: Any) -> None:
    engine = getattr(getattr(base, "_backend", None), "engine", None)
    if engine is not None:
        engine.dispose()


def _print_notice(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
