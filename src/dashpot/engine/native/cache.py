"""Compiled kernels on disk: a folder of this user alone, one checked file each, safe with many processes at once."""

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

__all__ = ["VARIABLE", "CacheError", "Claim", "folder", "key", "read", "write"]

VARIABLE = "DASHPOT_CACHE"
"""The environment variable that names the cache folder."""

MAGIC = b"dashpot\x01"
TRAILER = len(MAGIC) + hashlib.sha256().digest_size
DAY = 86400.0
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class CacheError(DashpotError, RuntimeError):
    """The cache folder cannot be used, or must not be."""


def folder() -> Path:
    """The cache folder, made where it is missing: `DASHPOT_CACHE`, else `kernels` in dashpot's per-user cache.

    It holds native code that will run as this user, so nobody else may be able to put a file there.

    Raises:
        CacheError: it cannot be made, belongs to somebody else, or others can write to it or replace it.
    """
    try:
        named = os.environ.get(VARIABLE)
        place = (Path(named).expanduser() if named else cache_folder() / "kernels").absolute()
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        refusal = _refusal(place)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        at = f" {str(error.filename)!r}" if isinstance(error, OSError) and error.filename else ""
        reason = error.strerror if isinstance(error, OSError) else error
        raise CacheError(
            f"The folder{at} for compiled kernels cannot be made ({reason}): "
            f"set {VARIABLE} to a folder that only you can write to."
        ) from error
    if refusal:
        raise CacheError(refusal)
    return place


def _refusal(place: Path) -> str:
    """The sentence that says why native code in `place` cannot be trusted, empty where it can."""
    name = f"The folder {str(place)!r} for compiled kernels"
    elsewhere = f"set {VARIABLE} to a folder that only you can write to"
    if sys.platform == "win32":  # the profile of a user is closed to others by default, and modes say nothing
        return ""
    status = place.stat()
    if status.st_uid != os.geteuid():
        return f"{name} belongs to another user (number {status.st_uid}, you are {os.geteuid()}): {elsewhere}."
    if status.st_mode & OTHERS_WRITE:
        return f"{name} can be written to by others, who could plant code there: chmod go-w it, or {elsewhere}."
    for parent in place.resolve().parents:
        # With write permission for all and no sticky bit anybody can put another folder in the place of ours. A group
        # that may write to a parent is common (umask 002, project folders), and what it put there would be its own.
        if (parent.stat().st_mode & (stat.S_IWOTH | stat.S_ISVTX)) == stat.S_IWOTH:
            return f"{name} is inside {str(parent)!r}, which everybody can write to: chmod o-w that, or {elsewhere}."
    return ""


def key(source: str, compiler: Compiler) -> str:
    """The name of a kernel: a checksum over everything that can change its code or whether it runs here.

    That is the source, the compiler, its version and flags, torch's version, the system and the processor.
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
    """The identity of the processor: its name and its instruction sets, of the first core."""
    wanted = {"model name", "flags", "Features", "CPU implementer", "CPU architecture", "CPU part"}
    lines: list[str] = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as cores:  # noqa: PTH123
        for line in cores:
            if not line.strip() and lines:
                break  # the next core; on a large machine the whole file takes tens of milliseconds
            if line.partition(":")[0].strip() in wanted:
                lines.append(line.strip())
    return "\n".join(lines) or platform.processor()


def read(place: Path, name: str) -> Path | None:
    """The intact library called `name` in the folder `place`, None where it is missing, damaged or not ours.

    Between this check and its loading the file could change by this user's own hand only: the folder is closed to
    others. A process that has it loaded is safe even then, for a rebuilt one is another file under the same name.
    """
    path = _path(place, name)
    try:
        with open(path, "rb", opener=_no_links) as file:
            if not _is_ours(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    body, trailer = content[:-TRAILER], content[-TRAILER:]
    return path if body and trailer == _trailer(name, body) else None


def write(place: Path, name: str, built: Path) -> Path:
    """Put the shared library `built` into the folder `place` under `name`; it appears there complete or not at all.

    Loaders ignore what follows the last section, and that is where the checksum goes: one file, one replacement.

    Raises:
        OSError: the folder cannot be written to or the disk is full.
    """
    body = built.read_bytes()

    def fill(file: BinaryIO) -> None:
        if sys.platform != "win32":
            os.fchmod(file.fileno(), 0o600)
        file.write(body + _trailer(name, body))

    _sweep(place)
    write_atomically(_path(place, name), fill)
    return _path(place, name)


class Claim:
    """The right of one process to compile one kernel, so that processes that start together compile it once.

    It is an advisory lock that ends with its process, however that ends. Where locks do not work everybody has it.

    Args:
        place: the folder of the cache; None where there is none, and so nothing to share.
        name: the kernel.
    """

    def __init__(self, place: Path | None, name: str) -> None:
        self._file: int | None = None
        self._held = False
        if place is not None and sys.platform != "win32":
            self._path = place / f"{name}.lock"
            with contextlib.suppress(OSError):
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)

    def taken(self) -> bool:
        """Try to take the claim, without waiting: whether this process has it now."""
        if sys.platform == "win32" or self._file is None:
            return True
        try:
            # A lock of POSIX and not of BSD: a forked child does not keep it after its parent's end.
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks
            return True
        self._held = True
        return True

    def release(self) -> None:
        """Let the next one have it: closing the file gives it up.

        The file goes too. Who waits on it still gets the lock, and who comes later makes another: by then the kernel
        is in the cache, and where it is not, two processes compile it, which costs time and nothing else.
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


def _no_links(path: str, flags: int) -> int:
    """Open without following a link in the last place, and without waiting for a pipe's other end."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _is_ours(status: os.stat_result) -> bool:
    """Whether a file is a plain one that only this user can have written."""
    if not stat.S_ISREG(status.st_mode):
        return False
    return sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & OTHERS_WRITE)


def _trailer(name: str, body: bytes) -> bytes:
    """What follows the library in its file; with the name in it one kernel cannot stand for another."""
    return MAGIC + hashlib.sha256(name.encode() + body).digest()


@functools.lru_cache(maxsize=64)
def _sweep(place: Path) -> None:
    """Remove what processes that died left in `place` more than a day ago; once per process."""
    oldest = time.time() - DAY
    for pattern in (".*.part", "*.lock"):
        for path in place.glob(pattern):
            with contextlib.suppress(OSError):
                if path.lstat().st_mtime < oldest:
                    path.unlink()
