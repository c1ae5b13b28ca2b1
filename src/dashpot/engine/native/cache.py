"""Disk cache of compiled kernels: a private folder, one checksummed file per kernel, safe for concurrent processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import stat
import sys
import time
from pathlib import Path
from typing import BinaryIO

import torch

from dashpot.engine.native.compiler import Compiler
from dashpot.errors import DashpotError
from dashpot.utils.atomic_files import write_atomically
from dashpot.utils.cache_dir import cache_folder

if sys.platform != "win32":
    import fcntl

VARIABLE = "DASHPOT_CACHE"
"""Environment variable with the path of the cache folder."""

MAGIC = b"dashpot\x01"
TRAILER_SIZE = len(MAGIC) + hashlib.sha256().digest_size
DAY = 86400.0
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class CacheError(DashpotError, RuntimeError):
    """The cache folder cannot be used, or is not safe to use."""


def folder() -> Path:
    """Return the cache folder: `DASHPOT_CACHE` if set, otherwise `kernels` in dashpot's per-user cache folder.

    The folder is created if it does not exist. It contains native code that runs as this user, so no other user may
    have write access.

    Raises:
        CacheError: If the folder cannot be created, has a different owner, or can be modified or replaced by other
            users.
    """
    try:
        named = os.environ.get(VARIABLE)
        place = (Path(named).expanduser() if named else cache_folder() / "kernels").absolute()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = _reject_reason(place)
    except (OSError, RuntimeError) as error:  # RuntimeError if the home directory is unknown
        at = f" {str(error.filename)!r}" if isinstance(error, OSError) and error.filename else ""
        cause = error.strerror if isinstance(error, OSError) else error
        raise CacheError(
            f"The folder{at} for compiled kernels cannot be created ({cause}): "
            f"set {VARIABLE} to a folder that only you can write to."
        ) from error
    if reason:
        raise CacheError(reason)
    return place


def _reject_reason(place: Path) -> str:
    """Return the reason why native code in `place` cannot be trusted, or an empty string if it can."""
    name = f"The folder {str(place)!r} for compiled kernels"
    elsewhere = f"set {VARIABLE} to a folder that only you can write to"
    if sys.platform == "win32":  # user profiles are private by default and have no mode bits
        return ""
    status = place.stat()
    if status.st_uid != os.geteuid():
        return f"{name} belongs to another user (uid {status.st_uid}, yours is {os.geteuid()}): {elsewhere}."
    if status.st_mode & WRITABLE_BY_OTHERS:
        return f"{name} is writable by other users, who could insert code: chmod go-w it, or {elsewhere}."
    for parent in place.resolve().parents:
        # World-writable without the sticky bit: any user can replace the folder. Group-writable parents are common
        # (umask 002, project folders), and a replacement would have a different owner.
        if (parent.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX)) == stat.S_IWOTH:
            return f"{name} is inside {str(parent)!r}, which is world-writable: chmod o-w that, or {elsewhere}."
    return ""


def key(source: str, compiler: Compiler) -> str:
    """Return the name of a kernel: a checksum of everything that affects its code or its compatibility.

    The checksum covers the source, the compiler with its version and flags, the version of torch, the system and the
    processor.
    """
    command = compiler.command("source", "library")
    parts = (source, compiler.version, *command, torch.__version__, sys.platform, platform.machine(), processor())
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode(errors="surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def processor() -> str:
    """Return the model name and the instruction sets of the first core of the processor."""
    fields = {"model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU part"}
    lines: list[str] = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cores:  # noqa: PTH123
        for line in cores:
            if not line.strip() and lines:
                break  # end of the first core; on large machines, reading the whole file takes tens of milliseconds
            if line.partition(":")[0].strip() in fields:
                lines.append(line.strip())
    return "\n".join(lines) or platform.processor()


def read(place: Path, name: str) -> Path | None:
    """Return the path of the library `name` in `place`, or None if it is missing, corrupt or not private.

    Between this check and loading, only the current user can change the file. A rebuild writes a new file of the same
    name, so the rebuild does not affect processes that have already loaded the library.
    """
    path = _path(place, name)
    try:
        with open(path, "rb", opener=_open_nofollow) as file:
            if not _is_private(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    body, trailer = content[:-TRAILER_SIZE], content[-TRAILER_SIZE:]
    return path if body and trailer == _trailer(name, body) else None


def write(place: Path, name: str, built: Path) -> Path:
    """Copy the shared library `built` to `place` as `name`, atomically, and return its path.

    The checksum is appended after the last section, where loaders ignore it, so that a single rename replaces both
    library and checksum.

    Raises:
        OSError: If the folder is not writable, or if the disk is full.
    """
    body = built.read_bytes()

    def fill(file: BinaryIO) -> None:
        if sys.platform != "win32":
            os.fchmod(file.fileno(), 0o600)
        file.write(body + _trailer(name, body))

    _remove_stale(place)
    write_atomically(_path(place, name), fill)
    return _path(place, name)


class CompileLock:
    """Advisory lock that prevents concurrent processes from compiling the same kernel.

    The lock is released when the process that holds it ends. On file systems without locks, every process acquires it.

    Args:
        place: Cache folder; None if there is no cache and therefore no lock.
        name: Name of the kernel.
    """

    def __init__(self, place: Path | None, name: str) -> None:
        self._file: int | None = None
        self._held = False
        if place is not None and sys.platform != "win32":
            self._path = place / f"{name}.lock"
            with contextlib.suppress(OSError):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def try_acquire(self) -> bool:
        """Try to acquire the lock without waiting, and return whether this process holds it."""
        if sys.platform == "win32" or self._file is None:
            return True
        try:
            # A POSIX lock, because forked children do not inherit it, unlike a BSD lock.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # the file system does not support locks
            return True
        self._held = True
        return True

    def release(self) -> None:
        """Release the lock and delete its file.

        A process that is already waiting acquires the lock of the deleted file, and a later process creates a new file.
        Normally the kernel is already cached at this point; otherwise both processes compile it.
        """
        if self._file is None:
            return
        if self._held:
            with contextlib.suppress(OSError):
                self._path.unlink()
        os.close(self._file)
        self._file, self._held = None, False


def _path(place: Path, name: str) -> Path:
    return place / f"{name}.so"


def _open_nofollow(path: str, flags: int) -> int:
    """Open a file without following a symlink in the last path component and without blocking on a pipe."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_private(status: os.stat_result) -> bool:
    """Check for a regular file that only this user can write to."""
    if not stat.S_ISREG(status.st_mode):
        return False
    return sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & WRITABLE_BY_OTHERS)


def _trailer(name: str, body: bytes) -> bytes:
    """Return the bytes to append to a library. Their checksum covers the name, so that entries cannot be swapped."""
    return MAGIC + hashlib.sha256(name.encode() + body).digest()


@functools.lru_cache(maxsize=64)
def _remove_stale(place: Path) -> None:
    """Remove files older than a day that terminated processes left in `place`. This is done once per process."""
    oldest = time.time() - DAY
    for pattern in (".*.part", "*.lock"):
        for path in place.glob(pattern):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    path.unlink()
