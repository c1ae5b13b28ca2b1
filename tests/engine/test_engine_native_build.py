"""From source text to loaded library in one process: once, announced where it takes long, faults told."""
# ruff: noqa: F401, F811 - fixtures are imported, and given to tests by their names

import logging
import os
import signal
import sys
import threading

import pytest
from build_support import (
    PARALLEL,
    answering,
    clean_slate,
    ended,
    entry,
    forget,
    hanging,
    holder,
    logged,
    scripted,
    together,
)

from dashpot.engine.native import build, cache, compile_job, compiler

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestRoundTrip:
    def test_a_kernel_is_compiled_once_and_kept_closed_to_others(self):
        before = build.compilations()
        assert build.loaded(answering(1)) is None
        library = build.library(answering(1))
        assert library.answer() == 1
        assert build.library(answering(1)) is library
        forget()
        assert build.loaded(answering(1)).answer() == 1
        assert build.compilations() == before + 1
        assert [path.name for path in cache.folder().iterdir()] == [entry(answering(1)).name]
        assert cache.folder().stat().st_mode & 0o777 == 0o700
        assert entry(answering(1)).stat().st_mode & 0o777 == 0o600

    def test_threads_share_one_compiler(self, logged):
        found = []
        together(*[lambda: found.append(build.library(answering(31)))] * 16)
        assert [library.answer() for library in found] == [31] * 16
        assert len(set(map(id, found))) == 1
        assert len(logged()) == 1

    def test_threads_compile_different_kernels_at_the_same_time(self, scripted, tmp_path):
        first, second = tmp_path / "1", tmp_path / "2"
        scripted(
            f"if mkdir {first}; then other={second}; else mkdir {second}; other={first}; fi\n"
            "until [ -d $other ]; do sleep 0.01; done"
        )  # each waits for the other
        together(*(lambda number=number: build.library(answering(number)) for number in (2, 3)))
        assert [build.loaded(answering(number)).answer() for number in (2, 3)] == [2, 3]


class TestAnnouncement:
    @pytest.fixture
    def records(self):
        found, handler = [], logging.Handler()
        handler.emit = found.append
        logger = logging.getLogger("dashpot")
        logger.addHandler(handler)
        yield found
        logger.removeHandler(handler)

    def test_a_long_compilation_is_announced_once_in_a_process(self, scripted, records, monkeypatch):
        monkeypatch.setattr(build, "LONG", 0.05)
        scripted("sleep 0.1")
        for number in (4, 5):
            build.library(answering(number))
        (record,) = records
        assert record.getMessage() == f"Compiling a kernel for this machine (once; kept in {cache.folder()}) ..."
        assert record.levelno >= logging.lastResort.level  # shown where logging is not configured

    def test_without_a_cache_no_folder_is_named(self, scripted, records, monkeypatch):
        monkeypatch.setattr(build, "LONG", 0.05)
        scripted("sleep 0.1")
        cache.folder().chmod(0o770)
        with pytest.warns(RuntimeWarning, match="by others"):
            build.library(answering(6))
        assert [record.getMessage() for record in records] == ["Compiling a kernel for this machine ..."]

    def test_a_fast_one_is_not(self, records, monkeypatch):
        monkeypatch.setattr(build, "LONG", 60.0)
        build.library(answering(7))
        forget()
        build.library(answering(7))
        assert records == []


class TestFaults:
    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert build.loaded(answering(21)) is None
        with pytest.raises(
            build.BuildError, match=r"^No C\+\+ compiler .* is on the search path: .*apt install g\+\+.*CXX"
        ):
            build.library(answering(21))

    def test_a_compile_error_is_told_by_its_first_line(self):
        with pytest.raises(build.BuildError, match=r"kernel\.cpp:1:\d+: error: .*nothing.*\): update it, or set CXX"):
            build.library('extern "C" int answer() { return nothing; }')
        assert list(cache.folder().iterdir()) == []

    def test_a_compiler_without_openmp_makes_the_kernel_all_the_same_with_one_warning(self, scripted):
        script = scripted('case "$*" in *"-fopenmp "*) echo "error: no OpenMP here" >&2; exit 1;; esac')
        with pytest.warns(
            RuntimeWarning, match=rf"{script} refused -fopenmp \(error: no OpenMP here\).*one thread"
        ) as caught:
            assert build.library(PARALLEL).threads() == 1
        assert len(caught) == 1
        before = build.compilations()
        assert build.library(answering(22)).answer() == 22
        assert build.compilations() == before + 1  # what was refused is not asked for again
        forget()
        assert build.loaded(PARALLEL).threads() == 1

    def test_a_compiler_that_does_not_know_the_processor_makes_the_kernel_all_the_same(self, scripted):
        scripted('case "$*" in *=native*) exit 3;; esac')
        with pytest.warns(RuntimeWarning, match=r"=native \(it ended with status 3 and said nothing\).*slower"):
            assert build.library(PARALLEL).threads() == 2

    def test_a_library_that_cannot_be_loaded_is_a_build_error(self, scripted):
        scripted("for last; do :; done; echo rubbish > kernel.so; exit 0")
        with pytest.raises(build.BuildError, match=r"its library cannot be loaded: .*kernel\.so"):
            build.library(answering(23))

    def test_a_compiler_that_hangs_is_ended(self, hanging, monkeypatch):
        monkeypatch.setattr(compile_job, "TIMEOUT", 1.0)
        with pytest.raises(build.BuildError, match="did not end within"):
            build.library(answering(24))
        assert ended(hanging())

    def test_a_compiler_that_vanishes_is_told(self, scripted):
        script = scripted("")
        compiler.find()
        script.unlink()
        with pytest.raises(build.BuildError, match="No such file"):
            build.library(answering(25))


class TestInterrupt:
    @pytest.fixture
    def interrupting(self):
        """A function that waits for something in a thread and then presses Ctrl-C."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)

        def start(wait):
            thread = threading.Thread(target=lambda: (wait(), os.kill(os.getpid(), signal.SIGINT)))
            thread.start()
            return thread

        yield start
        signal.signal(signal.SIGINT, before)

    def test_it_ends_the_compiler_and_leaves_nothing(self, hanging, interrupting, monkeypatch, clean_slate):
        thread = interrupting(hanging)
        with pytest.raises(KeyboardInterrupt):
            build.library(answering(26))
        thread.join()
        assert ended(hanging())
        assert list(clean_slate.iterdir()) == []
        assert list(cache.folder().iterdir()) == []
        monkeypatch.delenv("CXX")
        assert build.library(answering(26)).answer() == 26

    def test_it_ends_the_wait_for_another_process(self, interrupting, monkeypatch):
        monkeypatch.setattr(build, "PATIENCE", 300.0)
        process, waiting = holder(answering(27)), threading.Event()
        claimed = cache.Claim.taken
        monkeypatch.setattr(cache.Claim, "taken", lambda claim: waiting.set() or claimed(claim))
        thread = interrupting(waiting.wait)
        try:
            with pytest.raises(KeyboardInterrupt):
                build.library(answering(27))
        finally:
            thread.join()
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        assert build.library(answering(27)).answer() == 27
