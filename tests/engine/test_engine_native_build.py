"""`build.library` in one process: a kernel is compiled once, slow compilations are logged, and errors are reported."""
# ruff: noqa: F401, F811 - imported fixtures

import logging
import math
import os
import signal
import sys
import threading

import pytest
from build_support import (
    PARALLEL,
    clear_loaded,
    ended,
    entry,
    hanging,
    holder,
    isolated_cache,
    logged,
    scripted_compiler,
    source_returning,
    together,
    until,
)

from dashpot.engine.native import build, cache, compile_job, compiler

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestRoundTrip:
    def test_kernel_is_compiled_once_and_cached_privately(self):
        before = build.compilations()
        assert build.load_cached(source_returning(1)) is None
        library = build.library(source_returning(1))
        assert library.answer() == 1
        assert build.library(source_returning(1)) is library
        clear_loaded()
        assert build.load_cached(source_returning(1)).answer() == 1
        assert build.compilations() == before + 1
        assert [path.name for path in cache.folder().iterdir()] == [entry(source_returning(1)).name]
        assert cache.folder().stat().st_mode & 0o777 == 0o700
        assert entry(source_returning(1)).stat().st_mode & 0o777 == 0o600

    def test_concurrent_threads_compile_once(self, logged):
        found = []
        together(*[lambda: found.append(build.library(source_returning(31)))] * 16)
        assert [library.answer() for library in found] == [31] * 16
        assert len(set(map(id, found))) == 1
        assert len(logged()) == 1

    def test_threads_compile_different_kernels_concurrently(self, scripted_compiler, tmp_path):
        first, second = tmp_path / "1", tmp_path / "2"
        scripted_compiler(
            f"if mkdir {first}; then other={second}; else mkdir {second}; other={first}; fi\n"
            "until [ -d $other ]; do sleep 0.01; done"
        )  # each compiler waits for the other
        together(*(lambda number=number: build.library(source_returning(number)) for number in (2, 3)))
        assert [build.load_cached(source_returning(number)).answer() for number in (2, 3)] == [2, 3]


class TestAnnouncement:
    @pytest.fixture
    def records(self):
        found, handler = [], logging.Handler()
        handler.emit = found.append
        logger = logging.getLogger("dashpot")
        logger.addHandler(handler)
        yield found
        logger.removeHandler(handler)

    def test_long_compilation_is_logged_once_per_process(self, scripted_compiler, records, monkeypatch):
        monkeypatch.setattr(build, "ANNOUNCE_AFTER", 0.0)
        scripted_compiler("sleep 0.1")
        for number in (4, 5):
            build.library(source_returning(number))
        (record,) = records
        assert record.getMessage() == f"Compiling a kernel for this machine (once; cached in {cache.folder()}) ..."
        assert record.levelno >= logging.lastResort.level  # shown if logging is not configured

    def test_log_without_cache_omits_folder(self, scripted_compiler, records, monkeypatch):
        monkeypatch.setattr(build, "ANNOUNCE_AFTER", 0.0)
        scripted_compiler("sleep 0.1")
        cache.folder().chmod(0o770)
        with pytest.warns(RuntimeWarning, match="by other users"):
            build.library(source_returning(6))
        assert [record.getMessage() for record in records] == ["Compiling a kernel for this machine ..."]

    def test_short_compilation_is_not_logged(self, records, monkeypatch):
        monkeypatch.setattr(build, "ANNOUNCE_AFTER", 60.0)
        build.library(source_returning(7))
        clear_loaded()
        build.library(source_returning(7))
        assert records == []


class TestFaults:
    def test_missing_compiler_raises(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert build.load_cached(source_returning(21)) is None
        with pytest.raises(
            build.BuildError, match=r"^No C\+\+ compiler .* is on the search path: .*apt install g\+\+.*CXX"
        ):
            build.library(source_returning(21))

    def test_compile_error_reports_first_error_line(self):
        with pytest.raises(build.BuildError, match=r"kernel\.cpp:1:\d+: error: .*nothing.*\): update it, or set CXX"):
            build.library('extern "C" int answer() { return nothing; }')
        assert list(cache.folder().iterdir()) == []

    def test_compiler_without_openmp_compiles_serial_kernel_with_one_warning(self, scripted_compiler):
        script = scripted_compiler('case "$*" in *"-fopenmp "*) echo "error: no OpenMP here" >&2; exit 1;; esac')
        with pytest.warns(
            RuntimeWarning, match=rf"{script} rejects -fopenmp \(error: no OpenMP here\).*one thread"
        ) as caught:
            assert build.library(PARALLEL).threads() == 1
        assert len(caught) == 1
        before = build.compilations()
        assert build.library(source_returning(22)).answer() == 22
        assert build.compilations() == before + 1  # rejected flags are not used again
        clear_loaded()
        assert build.load_cached(PARALLEL).threads() == 1

    def test_compiler_without_native_tuning_compiles_with_warning(self, scripted_compiler):
        scripted_compiler('case "$*" in *=native*) exit 3;; esac')
        with pytest.warns(RuntimeWarning, match=r"=native \(exit status 3 without a message\).*slower"):
            assert build.library(PARALLEL).threads() == 2

    def test_unloadable_library_raises(self, scripted_compiler):
        scripted_compiler("for last; do :; done; echo rubbish > kernel.so; exit 0")
        with pytest.raises(build.BuildError, match=r"the library cannot be loaded: .*kernel\.so"):
            build.library(source_returning(23))

    def test_hanging_compiler_is_killed(self, hanging, monkeypatch, tmp_path):
        started = tmp_path / "log"
        monkeypatch.setattr(compile_job.CompileJob, "elapsed", lambda job: math.inf if started.exists() else 0.0)
        with pytest.raises(build.BuildError, match="no result within"):
            build.library(source_returning(24))
        assert ended(hanging())

    def test_deleted_compiler_raises(self, scripted_compiler):
        script = scripted_compiler("")
        compiler.find()
        script.unlink()
        with pytest.raises(build.BuildError, match="No such file"):
            build.library(source_returning(25))


class TestInterrupt:
    @pytest.fixture
    def interrupting(self):
        """Return a function that sends SIGINT from a thread after `wait()`."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)

        def start(wait):
            thread = threading.Thread(target=lambda: (wait(), os.kill(os.getpid(), signal.SIGINT)))
            thread.start()
            return thread

        yield start
        signal.signal(signal.SIGINT, before)

    def test_interrupt_kills_compiler_and_cleans_up(self, hanging, interrupting, monkeypatch, isolated_cache):
        before = build.compilations()
        thread = interrupting(lambda: (hanging(), until(lambda: build.compilations() > before)))
        with pytest.raises(KeyboardInterrupt):
            build.library(source_returning(26))
        thread.join()
        assert ended(hanging())
        assert list(isolated_cache.iterdir()) == []
        assert list(cache.folder().iterdir()) == []
        monkeypatch.delenv("CXX")
        assert build.library(source_returning(26)).answer() == 26

    def test_interrupt_ends_wait_for_lock(self, interrupting, monkeypatch):
        monkeypatch.setattr(build, "PEER_TIMEOUT", 300.0)
        process, waiting = holder(source_returning(27)), threading.Event()
        acquire = cache.CompileLock.try_acquire
        monkeypatch.setattr(cache.CompileLock, "try_acquire", lambda lock: waiting.set() or acquire(lock))
        thread = interrupting(waiting.wait)
        try:
            with pytest.raises(KeyboardInterrupt):
                build.library(source_returning(27))
        finally:
            thread.join()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert build.library(source_returning(27)).answer() == 27
