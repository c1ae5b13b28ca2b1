"""Kernels with many processes and threads: new ones, forked ones, killed ones, all with one cache."""
# ruff: noqa: F401, F811 - fixtures are imported, and given to tests by their names

import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from build_support import (
    PARALLEL,
    Compiling,
    answering,
    clean_slate,
    ended,
    entry,
    forked,
    hanging,
    holder,
    logged,
    other_process,
    scripted,
    succeeded,
    together,
)

from dashpot.engine.native import build, cache, compiler

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestOtherProcess:
    @pytest.mark.needs_linux
    def test_a_warm_process_compiles_nothing_and_has_one_openmp_runtime(self):
        assert compiler.find().openmp
        build.library(PARALLEL)
        printed = other_process(f"""
            import re
            from pathlib import Path
            kernel = build.loaded({PARALLEL!r})
            print(kernel.threads(), build.compilations())
            for name in sorted(set(re.findall(r"/.*lib(?:gomp|omp|iomp5).*", Path("/proc/self/maps").read_text()))):
                print(name)
        """)
        first, *runtimes = printed.splitlines()
        assert first == "2 0"
        assert len(runtimes) == 1
        assert Path(runtimes[0]).samefile(compiler.find().libraries[0])

    @pytest.mark.needs_linux
    def test_a_runtime_of_another_name_is_the_one_that_kernels_use(self, tmp_path):
        # Some wheels of torch bring libgomp under another name: here a renamed copy that comes before all others.
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
        assert mapped == {
            renamed.resolve(),
            Path(runtime).resolve(),
        }  # the latter is torch's own, and none is the compiler's
        assert b"libgomq.so.1" in kept.read_bytes()
        assert b"libgomp.so.1" not in kept.read_bytes()

    def test_a_daemon_thread_that_compiles_leaves_nothing_at_exit(self, hanging, clean_slate, tmp_path):
        script = f"""
            import contextlib, threading, time
            from pathlib import Path

            def work():
                with contextlib.suppress(build.BuildError):
                    build.library({answering(7)!r})

            threading.Thread(target=work, daemon=True).start()
            while not Path({str(tmp_path / "log")!r}).exists():
                time.sleep(0.01)
            print(len(list(Path({str(clean_slate)!r}).glob("dashpot-build-*"))))
        """
        assert other_process(script) == "1\n"
        assert ended(hanging())
        assert list(clean_slate.glob("dashpot-build-*")) == []


class TestForks:
    def test_a_child_compiles_itself_what_a_thread_of_its_parent_compiles(self, scripted, monkeypatch):
        scripted("sleep 0.4")
        monkeypatch.setattr(build, "PATIENCE", 0.05)

        def child():
            signal.alarm(20)
            before = build.compilations()
            assert build.library(answering(27)).answer() == 27
            assert build.compilations() == before + 1

        with Compiling(answering(27)) as making:
            assert succeeded(forked(child))
        assert making.library.answer() == 27

    def test_a_child_forked_while_a_thread_holds_every_lock_is_not_stuck(self, scripted):
        script = scripted('case "$*" in *=native*) exit 3;; esac')

        def child():
            signal.alarm(20)
            with pytest.warns(RuntimeWarning, match=str(script)):
                assert build.library(answering(28)).answer() == 28

        children, held = [], build._source_locks.setdefault(answering(28), threading.Lock())
        with held, build._lock:
            together(lambda: children.append(forked(child)))
            assert succeeded(children[0])

    @pytest.mark.parametrize("kind", ["os", "multiprocessing"])
    def test_a_child_that_ends_early_does_not_end_the_compiler_of_its_parent(self, kind, scripted):
        scripted("sleep 0.3")
        with Compiling(answering(30)) as making:
            if kind == "os":
                assert succeeded(forked(lambda: None))
            else:
                assert multiprocessing_child() == 0
        assert making.library.answer() == 30


def nothing():
    pass


def multiprocessing_child():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=nothing)
        process.start()
        process.join()
    return process.exitcode


class TestCrowd:
    @pytest.mark.parametrize("processes", [8, pytest.param(50, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
    def test_processes_with_threads_that_start_with_one_cold_cache(self, processes, locks, logged, monkeypatch):
        monkeypatch.setattr(build, "PATIENCE", 300.0)
        if not locks:
            monkeypatch.setattr(cache.fcntl, "lockf", refuse)

        def ask():
            for number in (32, 33):
                assert build.library(answering(number)).answer() == number

        def work():
            signal.alarm(300)
            together(*[ask] * 4)

        children = [forked(work) for _ in range(processes)]
        codes = [succeeded(child) for child in children]  # waits for each of them, also after a failure
        assert all(codes)
        compilers = len(logged())
        assert compilers == 2 if locks else 2 <= compilers <= 2 * processes
        names = {path.name for path in cache.folder().iterdir()}
        assert {entry(answering(number)).name for number in (32, 33)} <= names
        assert not [name for name in names if name.endswith(".part")]
        for number in (32, 33):
            assert cache.read(cache.folder(), entry(answering(number)).stem)

    def test_who_holds_the_claim_and_dies_blocks_nobody(self, monkeypatch):
        monkeypatch.setattr(build, "PATIENCE", 300.0)
        killed, waiting = holder(answering(34)), threading.Event()
        claimed = cache.Claim.taken
        monkeypatch.setattr(cache.Claim, "taken", lambda claim: claimed(claim) or waiting.set())

        def kill():
            waiting.wait()
            os.kill(killed, signal.SIGKILL)

        together(kill, lambda: build.library(answering(34)))
        assert not succeeded(killed)
        assert build.loaded(answering(34)).answer() == 34

    def test_who_holds_the_claim_and_sleeps_does_not_block_for_ever(self, monkeypatch):
        monkeypatch.setattr(build, "PATIENCE", 0.2)
        sleeping = holder(answering(35))
        try:
            began = time.monotonic()
            assert build.library(answering(35)).answer() == 35
            assert time.monotonic() - began >= 0.2
        finally:
            os.kill(sleeping, signal.SIGKILL)
            os.waitpid(sleeping, 0)


def refuse(*_):
    raise OSError(errno.ENOLCK, "no locks here")
