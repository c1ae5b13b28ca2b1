"""Exclusive locks on open files with flock, which the system releases if the process dies."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

from dashpot.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HAS_FLOCK = fcntl is not None
_LONGEST_PAUSE = 0.01
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EINTR)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file and return True, or return False if another process holds a conflicting lock.

    Args:
        descriptor: Descriptor of an open file; closing it releases the lock.
        shared: Whether other shared locks are allowed at the same time.

    Raises:
        OSError: If the file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no flock")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def wait_for_lock(descriptor: int, path: Path, limit: float = 60.0) -> None:
    """Lock an open file exclusively, after other processes have released their locks.

    The wait is bounded, because a suspended process keeps its locks.

    Args:
        descriptor: Descriptor of the open file.
        path: Path of the file, for messages.
        limit: Longest wait in seconds; positive.

    Raises:
        RunError: If the lock is not released within `limit`, or the file system has no locks.
    """
    end, pause = time.monotonic() + limit, 0.0005
    try:
        while not try_lock(descriptor):
            if time.monotonic() > end:
                raise RunError(
                    f"Another process has locked {path} for {limit:.0f} s: continue or end suspended processes of the "
                    f"study, then run the command again."
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    except OSError as error:
        raise RunError(
            f"The file system of {path} has no file locks ({os.strerror(error.errno or 0)}): choose a local folder, or "
            f"share the study through a database, --storage postgresql://..."
        ) from error
