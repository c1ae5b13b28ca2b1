"""New, forked and killed processes, and threads, that share one cache."""
# ruff: noqa: F401, F811 - imported fixtures

import errno
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from pathlib import Path

import pytest
from build_support import (
    PARALLEL,
    Compiling,
    ended,
    entry,
    forked,
    hanging,
    holder,
    isolated_cache,
    logged,
    other_process,
    scripted_compiler,
    source_returning,
    succeeded,
    together,
    until,
)
from processes import LIMIT

from dashpot.engine.native import build, cache, compiler

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestOtherProcess:
    @pytest.mark.needs_linux
    def test_warm_cache_compiles_nothing_and_loads_one_openmp_runtime(self):
        assert compiler.find().openmp
        build.library(PARALLEL)
        printed = other_process(f"""
            import re
            from pathlib import Path
            kernel = build.load_cached({PARALLEL!r})
            print(kernel.threads(), build.compilations())
            for name in sorted(set(re.findall(r"/.*lib(?:gomp|omp|iomp5).*", Path("/proc/self/maps").read_text()))):
                print(name)
        """)
        first, *runtimes = printed.splitlines()
        assert first == "2 0"
        assert len(runtimes) == 1
        assert Path(runtimes[0]).samefile(compiler.find().libraries[0])

    @pytest.mark.slow
    @pytest.mark.needs_linux
    def test_renamed_openmp_runtime_is_linked(self, tmp_path):
        # Some torch wheels contain libgomp under a different name. Simulate this by preloading a renamed copy.
        (runtime,) = [name for name in compiler.find().libraries if name.startswith("/")]
        if Path(runtime).name != "libgomp.so.1":
            pytest.skip(f"torch uses {Path(runtime).name}")
        renamed = tmp_path / "libgomq.so.1"
        renamed.write_bytes(Path(runtime).read_bytes().replace(b"libgomp.so.1", b"libgomq.so.1"))
        script = f"""
            import re
            from pathlib import Path
            print(build.library({PARALLEL!r}).threads())
            for name in sorted(set(re.findall(r"/.*libgom[pq].*", Path("/proc/self/maps").read_text()))):
                print(name)
        """
        printed = other_process(script, LD_PRELOAD=str(renamed)).splitlines()
        (kept,) = cache.folder().iterdir()
        assert printed[0] == "2"
        mapped = {Path(name).resolve() for name in printed[1:]}
        assert mapped == {renamed.resolve(), Path(runtime).resolve()}  # the copy and torch's file, not the compiler's
        assert b"libgomq.so.1" in kept.read_bytes()
        assert b"libgomp.so.1" not in kept.read_bytes()

    @pytest.mark.slow
    def test_exit_kills_compiler_of_daemon_thread(self, hanging, isolated_cache, tmp_path):
        script = f"""
            import contextlib, threading, time
            from pathlib import Path

            def work():
                with contextlib.suppress(build.BuildError):
                    build.library({source_returning(7)!r})

            threading.Thread(target=work, daemon=True).start()
            while not Path({str(tmp_path / "log")!r}).exists():
                time.sleep(0.01)
            print(len(list(Path({str(isolated_cache)!r}).glob("dashpot-build-*"))))
        """
        assert other_process(script) == "1\n"
        assert ended(hanging())
        assert list(isolated_cache.glob("dashpot-build-*")) == []


class TestForks:
    def test_forked_child_compiles_kernel_in_progress_in_parent(self, scripted_compiler, monkeypatch, tmp_path):
        first, release = tmp_path / "first", tmp_path / "release"
        scripted_compiler(f"if mkdir {first} 2>/dev/null; then until [ -e {release} ]; do sleep 0.01; done; fi")
        monkeypatch.setattr(build, "PEER_TIMEOUT", 0.05)

        def child():
            signal.alarm(int(LIMIT))
            before = build.compilations()
            assert build.library(source_returning(27)).answer() == 27
            assert build.compilations() == before + 1

        with Compiling(source_returning(27)) as compiling:
            try:
                until(first.exists)
                assert succeeded(forked(child))
            finally:
                release.touch()
        assert compiling.library.answer() == 27

    def test_fork_with_held_locks_does_not_deadlock(self, scripted_compiler):
        script = scripted_compiler('case "$*" in *=native*) exit 3;; esac')

        def child():
            signal.alarm(int(LIMIT))
            with pytest.warns(RuntimeWarning, match=str(script)):
                assert build.library(source_returning(28)).answer() == 28

        children, held = [], build._source_locks.setdefault(source_returning(28), threading.Lock())
        with held, build._lock:
            together(lambda: children.append(forked(child)))
            assert succeeded(children[0])

    @pytest.mark.parametrize("kind", ["os", "multiprocessing"])
    def test_exit_of_forked_child_keeps_parents_compiler(self, kind, scripted_compiler):
        scripted_compiler("sleep 0.3")
        with Compiling(source_returning(30)) as compiling:
            if kind == "os":
                assert succeeded(forked(lambda: None))
            else:
                assert multiprocessing_child() == 0
        assert compiling.library.answer() == 30


def nothing():
    pass


def multiprocessing_child():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=nothing)
        process.start()
        process.join()
    return process.exitcode


class TestConcurrency:
    @pytest.mark.parametrize("processes", [4, pytest.param(50, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
    def test_concurrent_processes_with_cold_cache(self, processes, locks, logged, monkeypatch):
        monkeypatch.setattr(build, "PEER_TIMEOUT", 300.0)
        if not locks:
            monkeypatch.setattr(cache.fcntl, "lockf", raise_no_locks)

        def ask():
            for number in (32, 33):
                assert build.library(source_returning(number)).answer() == number

        def work():
            signal.alarm(int(LIMIT))
            together(*[ask] * 4)

        children = [forked(work) for _ in range(processes)]
        codes = [succeeded(child) for child in children]  # wait for all children, even after a failure
        assert all(codes)
        compilers = len(logged())
        assert compilers == 2 if locks else 2 <= compilers <= 2 * processes
        names = {path.name for path in cache.folder().iterdir()}
        assert {entry(source_returning(number)).name for number in (32, 33)} <= names
        assert not [name for name in names if name.endswith(".part")]
        for number in (32, 33):
            assert cache.read(cache.folder(), entry(source_returning(number)).stem)

    def test_killed_lock_holder_releases_lock(self, monkeypatch):
        monkeypatch.setattr(build, "PEER_TIMEOUT", 300.0)
        killed, waiting = holder(source_returning(34)), threading.Event()
        acquire = cache.CompileLock.try_acquire
        monkeypatch.setattr(cache.CompileLock, "try_acquire", lambda lock: acquire(lock) or waiting.set())

        def kill():
            waiting.wait()
            os.kill(killed, signal.SIGKILL)

        together(kill, lambda: build.library(source_returning(34)))
        assert not succeeded(killed)
        assert build.load_cached(source_returning(34)).answer() == 34

    def test_wait_for_lock_holder_times_out(self, monkeypatch):
        monkeypatch.setattr(build, "PEER_TIMEOUT", 0.2)
        sleeping = holder(source_returning(35))
        try:
            assert build.library(source_returning(35)).answer() == 35
        finally:
            os.kill(sleeping, signal.SIGKILL)
            os.waitpid(sleeping, 0)


def raise_no_locks(*_):
    raise OSError(errno.ENOLCK, "no locks")
