"""Lock file of a worker: the system releases the lock at the moment the worker dies."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashpot.errors import RunError
from dashpot.scheduling.file_lock import HAS_FLOCK, try_lock

_FOLDER = ".workers"
_CLAIMING = "claiming"
_LONGEST_CLAIM = 5.0
_PAUSE = 0.001


class WorkerLock:
    """Identity of a worker, with a locked file in the study folder if there is one.

    Args:
        folder: Folder shared by the workers of a machine; None for a worker without a lock file.

    Attributes:
        worker: Random name of this worker.
        host: Identity of this machine; locks on network file systems are not visible to every machine.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     worker, observer = WorkerLock(Path(folder)), WorkerLock(Path(folder))
    ...     alive = observer.has_ended(worker.worker, worker.host)
    ...     worker.close(), observer.close()
    ...     alive
    (None, None)
    False
    """

    def __init__(self, folder: Path | None) -> None:
        self.worker = secrets.token_hex(8)
        self.host = _host()
        self._folder = None if folder is None or not HAS_FLOCK else folder / _FOLDER
        self._descriptor = None if self._folder is None else _locked_file(self._folder / f"{self.worker}.lock")
        if self._descriptor is None:
            self._folder = None

    def has_ended(self, worker: str, host: str) -> bool:
        """Return whether a worker has certainly ended; False if it is alive, or has no lock file in this folder."""
        if self._folder is None or host != self.host:
            return False
        try:
            descriptor = os.open(self._folder / f"{worker}.lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            return try_lock(descriptor, shared=True)  # shared, as several observers may test at the same time
        except OSError:
            return False
        finally:
            os.close(descriptor)

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Let one worker of the folder claim at a time.

        The lock only saves claims of the same item: after a few seconds, or without a folder, the block runs without
        it.
        """
        descriptor = None if self._folder is None else _locked_file(self._folder / _CLAIMING, _LONGEST_CLAIM)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def close(self, *, remove: bool = True) -> None:
        """Release the lock.

        Args:
            remove: Whether to remove the file; False keeps it, so that others recognise this worker as ended.
        """
        if self._folder is None or self._descriptor is None:
            return
        if remove:
            with contextlib.suppress(OSError):
                (self._folder / f"{self.worker}.lock").unlink()
        os.close(self._descriptor)
        self._descriptor = None

    def sweep(self) -> None:
        """Remove the lock files of ended workers; call it only if all items are finished."""
        if self._folder is None:
            return
        for path in self._folder.glob("*.lock"):
            if self.has_ended(path.stem, self.host):
                path.unlink(missing_ok=True)


def _locked_file(path: Path, limit: float = 60.0) -> int | None:
    """Open and lock a file, which is created if it is missing; None if it cannot be locked within the limit."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        descriptor = _opened(path)
        try:
            if try_lock(descriptor) and _is_current(descriptor, path):
                return descriptor
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(_PAUSE)
    return None


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"Cannot create the lock file {path}: {error.strerror or error}.") from error


def _is_current(descriptor: int, path: Path) -> bool:
    """Return whether the path still names the open file; another worker may have removed it before the lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _host() -> str:
    with contextlib.suppress(OSError):
        return f"{platform.node()}/{Path('/etc/machine-id').read_text(encoding='ascii').strip()}"
    return platform.node()
