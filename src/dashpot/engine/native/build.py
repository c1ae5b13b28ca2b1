"""Loading of kernel libraries by source text: from memory, from the disk cache, or by compilation."""

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
from dashpot.engine.native.compile_job import CompileJob, compilations  # noqa: F401 - imported from here
from dashpot.engine.native.compiler import BuildError, Compiler, find
from dashpot.utils.warn import warn

PEER_TIMEOUT = 5.0
"""Maximum time in seconds to wait for another process that compiles the same kernel."""
POLL_INTERVAL = 0.005
"""Time in seconds between checks of whether the compiler or another process has finished."""
ANNOUNCE_AFTER = 1.0
"""Time in seconds after which a running compilation is logged."""
UNCACHED = "Until then every process recompiles its kernels."

_log = logging.getLogger("dashpot")
_libraries: dict[str, ctypes.CDLL] = {}
_accepted: dict[Compiler, Compiler] = {}  # compiler with rejected flags -> with accepted flags
_warned: set[str] = set()
_logged = False
_lock = threading.Lock()
_source_locks: dict[str, threading.Lock] = {}


def load_cached(source: str) -> ctypes.CDLL | None:
    """Return a kernel's library from memory or the disk cache, or None if it is in neither. This takes about 1 ms.

    Args:
        source: C++ source text.

    Warns:
        RuntimeWarning: Once, if the cache folder cannot be used. Libraries are then lost when the process exits.
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
        with contextlib.suppress(OSError):  # mounted noexec
            return _libraries.setdefault(source, ctypes.CDLL(str(path)))
    return None


def library(source: str) -> ctypes.CDLL:
    """Return a kernel's library, compiling it if necessary.

    A source is compiled only once, even if calls are concurrent: other threads wait for the result, and other processes
    wait for up to `PEER_TIMEOUT` seconds.

    Args:
        source: C++ source text.

    Raises:
        BuildError: If no compiler is found, the compiler fails, or its output cannot be loaded.

    Warns:
        RuntimeWarning: Once, if the compiler rejects an optimization flag.

    >>> library('extern "C" int dashpot_doctest() { return 5; }').dashpot_doctest()
    5
    """
    found = load_cached(source)
    if found is not None:
        return found
    compiler = find()
    with _source_locks.setdefault(source, threading.Lock()):
        lock = cache.CompileLock(_folder(), cache.key(source, compiler))
        try:
            _wait_for(lock)
            return load_cached(source) or _compile(source, compiler)
        finally:
            lock.release()


def _wait_for(lock: cache.CompileLock) -> None:
    """Wait for the lock for at most `PEER_TIMEOUT` seconds."""
    end = time.monotonic() + PEER_TIMEOUT
    while not lock.try_acquire() and time.monotonic() < end:
        time.sleep(POLL_INTERVAL)


class _AttemptError(Exception):
    """A failed compilation that may succeed with fewer flags."""


def _compile(source: str, compiler: Compiler) -> ctypes.CDLL:
    """Compile with the best flags that the compiler accepts, cache the library, and load it."""
    try:
        job = CompileJob(source)
    except OSError as error:
        raise BuildError(
            f"No writable temporary folder to compile a kernel in ({error}): set TMPDIR to a writable folder."
        ) from error
    errors: list[str] = []
    with job:
        for used in _accepted.get(compiler, compiler).with_fallbacks():
            try:
                found = _attempt(job, used, cache.key(source, compiler))
            except _AttemptError as failure:
                errors.append(str(failure))
                if job.kill_reason:
                    break
                continue
            _libraries[source] = found
            if errors:
                _accepted[compiler] = used
                _warn(_rejected_flags_message(compiler, used, errors[0]))
            return found
    # The last attempt uses the fewest flags, so the source must have caused its error.
    raise BuildError(
        f"The C++ compiler {compiler.path} cannot compile a kernel ({errors[-1]}): "
        "update it, or set CXX to another compiler."
    )


def _attempt(job: CompileJob, compiler: Compiler, name: str) -> ctypes.CDLL:
    """Run the compiler with its current flags, cache the library as `name`, and load it."""
    try:
        job.launch(compiler)
        while job.running():
            if job.elapsed() > ANNOUNCE_AFTER:
                _log_compilation()
            time.sleep(POLL_INTERVAL)
        failure = job.error()
    except OSError as error:
        failure = str(error)
    if failure:
        raise _AttemptError(failure)
    return _store_and_load(job.built, name)


def _store_and_load(built: Path, name: str) -> ctypes.CDLL:
    """Write the library `built` to the cache and load it from there. If that fails, load it from `built`.

    The file `built` may be deleted once the library is loaded.
    """
    place = _folder()
    fault = ""
    if place is not None:
        try:
            return ctypes.CDLL(str(cache.write(place, name, built)))
        except OSError as error:  # disk full, read-only, or mounted noexec
            reason = error.strerror or _without_path(error)
            fault = f"be cached in the folder {str(place)!r} or loaded from there ({reason})"
    try:
        found = ctypes.CDLL(str(built))
    except OSError as error:
        if not _is_noexec(built.parent, error):
            raise _AttemptError(f"the library cannot be loaded: {error}") from error
        raise BuildError(
            f"A compiled kernel cannot {fault and f'{fault}, nor '}be loaded from the temporary folder "
            f"{str(built.parent.parent)!r} ({_without_path(error)}), which is mounted noexec: "
            f"set {cache.VARIABLE} to a private folder that allows executables."
        ) from error
    if fault:
        _warn(
            f"A compiled kernel cannot {fault}: free disk space there or set {cache.VARIABLE} to a private folder that "
            f"allows executables. {UNCACHED}"
        )
    return found


def _is_noexec(place: Path, error: OSError) -> bool:
    """Check whether a library failed to load because its file system is mounted `noexec`."""
    mounted = sys.platform != "win32" and os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)
    return bool(mounted) or "failed to map segment" in str(error)


def _without_path(error: OSError) -> str:
    """Return the loader's message without the leading file path."""
    return re.sub(r"^/.*?\.so: ", "", str(error))


def _folder() -> Path | None:
    """Return the cache folder. If it cannot be used, return None and, the first time, issue a warning."""
    try:
        return cache.folder()
    except cache.CacheError as error:
        _warn(f"{error} {UNCACHED}")
        return None


def _rejected_flags_message(wanted: Compiler, used: Compiler, error: str) -> str:
    dropped = [*(wanted.tuning if not used.tuning else ()), *(wanted.openmp if not used.openmp else ())]
    return (
        f"The C++ compiler {wanted.path} rejects {shlex.join(dropped)} ({error}), so kernels "
        f"{'use one thread' if used.tuning else 'are slower than possible'}: "
        "install a complete and current g++ or set CXX to one, and empty the kernel cache."
    )


def _log_compilation() -> None:
    """Log that a compilation is running, once per process."""
    global _logged  # noqa: PLW0603
    with _lock:
        if _logged:
            return
        _logged = True
    place = _folder()
    once = "" if place is None else f" (once; cached in {place})"
    # WARNING is the lowest level shown if logging is not configured, which is the usual case.
    _log.warning("Compiling a kernel for this machine%s ...", once)


def _warn(message: str) -> None:
    """Issue each distinct warning once per process."""
    with _lock:
        if message in _warned:
            return
        _warned.add(message)
    warn(message, RuntimeWarning)


def _after_fork() -> None:
    """Replace the locks in a forked child, because threads of the parent may hold them."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _source_locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
