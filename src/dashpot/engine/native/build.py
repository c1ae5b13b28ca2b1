"""From the source text of a kernel to the loaded library: from memory, from the cache, or by the compiler beside us."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import sys
import threading
import time
from multiprocessing import util
from pathlib import Path
from weakref import WeakValueDictionary

from dashpot.engine.native import cache
from dashpot.engine.native.compiler import BuildError, Compiler, find
from dashpot.engine.native.job import Job, compilations
from dashpot.warn import warn

__all__ = ["Build", "BuildError", "compilations", "library", "loaded", "start"]

PATIENCE = 5.0
"""Seconds to wait for another process that compiles the same kernel before doing it too."""
PAUSE = 0.005
"""Seconds between two looks at the compiler while somebody waits for it."""
CONSEQUENCE = "Until then every process compiles its kernels anew."

_libraries: dict[str, ctypes.CDLL] = {}
_builds: WeakValueDictionary[str, Build] = WeakValueDictionary()
_refused: dict[Compiler, Compiler] = {}  # compilers with flags they refused, and what they accepted instead
_warned: set[str] = set()
_lock = threading.RLock()


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


def start(source: str) -> Build:
    """Start to compile a kernel in the background and return at once.

    Two starts of one source share one `Build`. A `Build` that nobody holds any more ends its compiler.

    Raises:
        BuildError: there is no compiler.
    """
    with _lock:
        build = _builds.get(source)
        if build is None:
            build = _builds[source] = Build(source, find())
        return build


def library(source: str) -> ctypes.CDLL:
    """The library of a kernel, compiled now if need be.

    Raises:
        BuildError: there is no compiler, or it cannot compile the source.

    >>> library('extern "C" int dashpot_doctest() { return 5; }').dashpot_doctest()
    5
    """
    return loaded(source) or start(source).result()


class Build:
    """A kernel in the making: made by `start`, safe to use from several threads.

    In a forked child it starts over with a compiler of its own as soon as it is asked for something.

    Args:
        source: the text of the kernel.
        compiler: who compiles it.
    """

    def __init__(self, source: str, compiler: Compiler) -> None:
        self.seconds: float | None = None
        """How long the compiler needed, or the wait for another process's; None while that lasts."""
        self._source = source
        self._compiler = compiler
        self._library: ctypes.CDLL | None = None
        self._fault: str | None = None
        self._reset()
        self._advance()

    def ready(self) -> bool:
        """Whether `result` has an answer, good or bad, without waiting for a compiler. Takes some microseconds."""
        if self._over():
            return True
        if not self._mutex.acquire(blocking=False):
            return False  # another thread is at it
        try:
            return self._advance()
        finally:
            self._mutex.release()

    def result(self) -> ctypes.CDLL:
        """Wait for the compiler, keep the library in the cache, and load it.

        Raises:
            BuildError: the source cannot be compiled, or what came out cannot be loaded.

        Warns:
            RuntimeWarning: once, where the compiler refused a flag that makes kernels fast.
        """
        with self._mutex:
            while not self._over():
                if not self._advance():
                    time.sleep(PAUSE)
                elif not self._over():
                    self._install()
        if self._library is None:
            raise BuildError(self._fault)
        return self._library

    def forked(self) -> None:
        """In a forked child: forget the compiler, which is the parent's."""
        if self._job is not None:
            self._job.disown()
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._began = time.monotonic()
        self._claim: cache.Claim | None = None
        self._job: Job | None = None
        self._attempts: list[Compiler] = []
        self._used = self._compiler
        self._complaints: list[str] = []
        self._resources = contextlib.ExitStack()

    def _over(self) -> bool:
        return self._library is not None or self._fault is not None

    def _advance(self) -> bool:
        """Do what needs no wait: whether that was all, because the library is loaded, or compiled, or will not be."""
        if self._over():
            return True
        if self._job is None:
            if not self._is_my_turn():
                return False
            self._library = loaded(self._source)
            if self._library is None:
                self._prepare()
            else:
                self._finish(time.monotonic() - self._began)
        elif self._job.running():
            return False
        elif complaint := self._job.complaint():
            self._complaints.append(complaint)
            self._next()
        else:
            return True
        return self._over()

    def _is_my_turn(self) -> bool:
        """Whether no other process compiles this kernel now, or one has for so long that it is not worth the wait."""
        if self._claim is None:
            # Called when this object goes and when its process ends, also one that multiprocessing forked, whose end
            # weakref.finalize would miss; a forked child leaves the one of its parent alone.
            self._clean = util.Finalize(self, self._resources.close, exitpriority=10)
            self._claim = cache.Claim(_folder(), cache.key(self._source, self._compiler))
            self._resources.callback(self._claim.release)
        return self._claim.taken() or time.monotonic() - self._began > PATIENCE

    def _prepare(self) -> None:
        """Make the folder to compile in."""
        try:
            self._job = Job(self._source)
        except OSError as error:
            self._fail(f"There is no folder to compile a kernel in ({error}): set TMPDIR to one that you can write to.")
            return
        self._resources.callback(self._job.stop)
        self._attempts = _refused.get(self._compiler, self._compiler).attempts()
        self._next()

    def _next(self) -> None:
        """Start the compiler with the best flags not yet tried, or give up."""
        assert self._job is not None
        while self._attempts and not self._job.hung:
            self._used = self._attempts.pop(0)
            try:
                self._job.launch(self._used)
            except OSError as error:
                self._complaints.append(str(error))
            else:
                return
        # The last attempt had the fewest flags, so what it says is about the source.
        self._fail(
            f"The C++ compiler {self._compiler.path} could not make a kernel ({self._complaints[-1]}): "
            "update it, or set CXX to another one."
        )

    def _install(self) -> None:
        """Keep the library that the compiler made, and load it; where that fails, try with fewer flags."""
        assert self._job is not None
        try:
            found = _kept(self._job.built, cache.key(self._source, self._compiler))
        except OSError as error:
            if _forbids_programs(self._job.built.parent, error):
                self._fail(
                    f"A compiled kernel can be loaded neither from the cache nor from {str(self._job.built.parent)!r}, "
                    f"where it was compiled, as programs may not run there ({error}): set {cache.VARIABLE} to a folder "
                    "of yours where they may."
                )
                return
            self._complaints.append(f"its library cannot be loaded: {error}")
            self._next()
            return
        self._library = _libraries.setdefault(self._source, found)
        self._finish(self._job.seconds())
        if self._complaints:
            _refused[self._compiler] = self._used
            _warn(_loss(self._compiler, self._used, self._complaints[0]))

    def _fail(self, sentence: str) -> None:
        self._fault = sentence
        self._finish(time.monotonic() - self._began)

    def _finish(self, seconds: float) -> None:
        self.seconds = seconds
        self._clean()


def _kept(built: Path, name: str) -> ctypes.CDLL:
    """Write the library `built` to the cache and load it from there; where that cannot be, load it as it lies.

    Its private folder can go right after that, for a loaded library does not need its file.
    """
    place = _folder()
    if place is None:
        return ctypes.CDLL(str(built))
    try:
        return ctypes.CDLL(str(cache.write(place, name, built)))
    except OSError as error:  # a full disk, a read-only one, one that allows no programs
        found = ctypes.CDLL(str(built))  # raises where it is not the folder's fault
        _warn(
            f"A compiled kernel cannot be kept in the folder {str(place)!r} or loaded from there "
            f"({error.strerror or error}): make room there or set {cache.VARIABLE} to a folder of yours where programs "
            f"may run. {CONSEQUENCE}"
        )
        return found


def _forbids_programs(place: Path, error: OSError) -> bool:
    """Whether a library was refused because of the file system it lies on, mounted `noexec`, and not for itself."""
    mounted = sys.platform != "win32" and os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0)
    return bool(mounted) or "failed to map segment" in str(error)


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


def _warn(sentence: str) -> None:
    """Warn, each sentence once in a process."""
    with _lock:
        if sentence in _warned:
            return
        _warned.add(sentence)
    warn(sentence, RuntimeWarning)


def _after_fork() -> None:
    """In a forked child: new locks, which a thread of the parent may have held, and hands off what is the parent's."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    for build in list(_builds.values()):
        build.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
