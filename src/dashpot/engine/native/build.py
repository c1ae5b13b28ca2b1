"""From the source text of a kernel to the loaded library: from memory, from the cache, or from the compiler."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import shlex
import sys
import threading
import time
from pathlib import Path

from dashpot.engine.native import cache
from dashpot.engine.native.compile_job import Job, compilations
from dashpot.engine.native.compiler import BuildError, Compiler, find
from dashpot.utils.warn import warn

__all__ = ["BuildError", "compilations", "library", "loaded"]

PATIENCE = 5.0
"""Seconds to wait for another process that compiles the same kernel before doing it too."""
PAUSE = 0.005
"""Seconds between two looks at the compiler, or at the process that is waited for."""
LONG = 1.0
"""Seconds after which a compilation is announced."""
CONSEQUENCE = "Until then every process compiles its kernels anew."

_log = logging.getLogger("dashpot")
_libraries: dict[str, ctypes.CDLL] = {}
_refused: dict[Compiler, Compiler] = {}  # compilers with flags they refused, and what they accepted instead
_warned: set[str] = set()
_announced = False
_lock = threading.Lock()
_source_locks: dict[str, threading.Lock] = {}


def loaded(source: str) -> ctypes.CDLL | None:
    """The library of a kernel if this process or the cache has it, else None. Never compiles; about a millisecond.

    Warns:
        RuntimeWarning: once, where the cache folder cannot be used; kernels then last as long as the process.
    """
    if source in _libraries:
        return _libraries[source]
    try:
        name = cache.key(source, find())
    except BuildError:
        return None
    place = _folder()
    path = None if place is None else cache.read(place, name)
    if path is not None:
        with contextlib.suppress(OSError):  # a folder that allows no programs
            return _libraries.setdefault(source, ctypes.CDLL(str(path)))
    return None


def library(source: str) -> ctypes.CDLL:
    """The library of a kernel, compiled now if need be.

    A source is compiled once: other threads wait for that, and so do other processes, for at most `PATIENCE` seconds.

    Raises:
        BuildError: there is no compiler, it cannot compile the source, or what it makes cannot be loaded.

    Warns:
        RuntimeWarning: once, where the compiler refused a flag that makes kernels fast.

    >>> library('extern "C" int dashpot_doctest() { return 5; }').dashpot_doctest()
    5
    """
    found = loaded(source)
    if found is not None:
        return found
    compiler = find()
    with _source_locks.setdefault(source, threading.Lock()):
        claim = cache.Claim(_folder(), cache.key(source, compiler))
        try:
            _wait_for(claim)
            return loaded(source) or _compiled(source, compiler)
        finally:
            claim.release()


def _wait_for(claim: cache.Claim) -> None:
    """Wait until no other process compiles this kernel, or one has for so long that it is not worth the wait."""
    end = time.monotonic() + PATIENCE
    while not claim.taken() and time.monotonic() < end:
        time.sleep(PAUSE)


class _AttemptError(Exception):
    """One command gave no usable library, for a reason that fewer flags may remove."""


def _compiled(source: str, compiler: Compiler) -> ctypes.CDLL:
    """Compile with the best flags that the compiler accepts, keep the library in the cache, and load it."""
    try:
        job = Job(source)
    except OSError as error:
        raise BuildError(
            f"There is no folder to compile a kernel in ({error}): set TMPDIR to one that you can write to."
        ) from error
    complaints: list[str] = []
    with job:
        for used in _refused.get(compiler, compiler).attempts():
            try:
                found = _attempt(job, used, cache.key(source, compiler))
            except _AttemptError as failure:
                complaints.append(str(failure))
                if job.stopped:
                    break
                continue
            _libraries[source] = found
            if complaints:
                _refused[compiler] = used
                _warn(_loss(compiler, used, complaints[0]))
            return found
    # The last attempt had the fewest flags, so what it says is about the source.
    raise BuildError(
        f"The C++ compiler {compiler.path} could not make a kernel ({complaints[-1]}): "
        "update it, or set CXX to another one."
    )


def _attempt(job: Job, compiler: Compiler, name: str) -> ctypes.CDLL:
    """Compile with these flags and wait for the compiler; the library is kept in the cache as `name`."""
    try:
        job.launch(compiler)
        while job.running():
            if job.elapsed() > LONG:
                _announce()
            time.sleep(PAUSE)
        complaint = job.complaint()
    except OSError as error:
        complaint = str(error)
    if complaint:
        raise _AttemptError(complaint)
    return _kept(job.built, name)


def _kept(built: Path, name: str) -> ctypes.CDLL:
    """Write the library `built` to the cache and load it from there; where that cannot be, load it as it lies.

    Its private folder can go right after that, for a loaded library does not need its file.
    """
    place = _folder()
    fault = ""
    if place is not None:
        try:
            return ctypes.CDLL(str(cache.write(place, name, built)))
        except OSError as error:  # a full disk, a read-only one, one that allows no programs
            reason = error.strerror or _without_path(error)
            fault = f"be kept in the folder {str(place)!r} or loaded from there ({reason})"
    try:
        found = ctypes.CDLL(str(built))
    except OSError as error:
        if not _forbids_programs(built.parent, error):
            raise _AttemptError(f"its library cannot be loaded: {error}") from error
        raise BuildError(
            f"A compiled kernel cannot {fault and f'{fault}, nor '}be loaded from the temporary folder "
            f"{str(built.parent.parent)!r} ({_without_path(error)}), as programs may not run there: "
            f"set {cache.VARIABLE} to a folder of yours where they may."
        ) from error
    if fault:
        _warn(
            f"A compiled kernel cannot {fault}: make room there or set {cache.VARIABLE} to a folder of yours where "
            f"programs may run. {CONSEQUENCE}"
        )
    return found


def _forbids_programs(place: Path, error: OSError) -> bool:
    """Whether a library was refused because of the file system it lies on, mounted `noexec`, and not for itself."""
    mounted = sys.platform != "win32" and os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)
    return bool(mounted) or "failed to map segment" in str(error)


def _without_path(error: OSError) -> str:
    """What the loader says, without the file's path at its beginning."""
    return re.sub(r"^/.*?\.so: ", "", str(error))


def _folder() -> Path | None:
    """The folder of the cache, None and one warning where it cannot be used."""
    try:
        return cache.folder()
    except cache.CacheError as error:
        _warn(f"{error} {CONSEQUENCE}")
        return None


def _loss(wanted: Compiler, used: Compiler, complaint: str) -> str:
    """The sentence about the flags a compiler refused."""
    dropped = [*(wanted.tuning if not used.tuning else ()), *(wanted.openmp if not used.openmp else ())]
    return (
        f"The C++ compiler {wanted.path} refused {shlex.join(dropped)} ({complaint}), so kernels "
        f"{'use one thread' if used.tuning else 'are slower than they could be'}: "
        "install a complete and current g++ or set CXX to one, and empty the cache of kernels."
    )


def _announce() -> None:
    """Log, once in a process, that a compiler is at work."""
    global _announced  # noqa: PLW0603
    with _lock:
        if _announced:
            return
        _announced = True
    place = _folder()
    once = "" if place is None else f" (once; kept in {place})"
    # Nothing is wrong, but WARNING is the lowest level that Python shows where logging is not configured, and whoever
    # waits for a first step has rarely configured it.
    _log.warning("Compiling a kernel for this machine%s ...", once)


def _warn(sentence: str) -> None:
    """Warn, each sentence once in a process."""
    with _lock:
        if sentence in _warned:
            return
        _warned.add(sentence)
    warn(sentence, RuntimeWarning)


def _after_fork() -> None:
    """In a forked child: new locks, as a thread of the parent may have held the old ones."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _source_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
