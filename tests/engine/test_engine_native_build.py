"""From source text to loaded library: background, cache, faults, forks, threads and processes."""

import contextlib
import ctypes
import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from pathlib import Path

import pytest

from dashpot.engine.native import build, cache, compiler, job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and compilers that are shell scripts")

ROOT = str(Path(build.__file__).parents[3])


def answering(number):
    return f'extern "C" int answer() {{ return {number}; }}'


PARALLEL = """
extern "C" int threads() {
    int count = 0;
#pragma omp parallel num_threads(2) reduction(+ : count)
    count += 1;
    return count;
}
"""


@pytest.fixture(autouse=True)
def clean_slate(tmp_path, monkeypatch):
    """No kernel known, an empty cache, and a temporary folder of the test's own that must be empty at its end."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    for name, value in {"_libraries": {}, "_refused": {}, "_warned": set()}.items():
        monkeypatch.setattr(build, name, value)
    yield temporary
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Make `CXX` a shell script that does something and then calls the real compiler, for its version without delay."""
    real = compiler.find().path

    def use(commands):
        script = tmp_path / "compiler"
        script.write_text(
            f'#!/bin/sh\ncase "$*" in *--version*) exec {real} --version;; esac\n{commands}\nexec {real} "$@"\n'
        )
        script.chmod(0o700)
        monkeypatch.setenv("CXX", str(script))
        return script

    return use


@pytest.fixture
def logged(scripted, tmp_path):
    """A compiler that notes its process in a file: the function that reads them."""
    log = tmp_path / "log"
    log.touch()
    scripted(f"echo $$ >> {log}")
    return lambda: [int(line) for line in log.read_text().split()]


@pytest.fixture
def hanging(scripted, tmp_path):
    """A compiler that does not end within the test: the function that waits until it runs and gives its process."""
    log = tmp_path / "log"
    scripted(f"echo $$ > {log}.part; mv {log}.part {log}; sleep 100")

    def process():
        until(log.exists)
        return int(log.read_text())

    return process


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def ended(compiler_process):
    """Whether the compiler has gone without a trace, and soon every program that it had called.

    Those are the system's to wait for, which some containers never do, so that a zombie of theirs is as good as gone.
    """
    try:
        os.kill(compiler_process, 0)
    except ProcessLookupError:
        until(lambda: "R" not in states(compiler_process) and "S" not in states(compiler_process))
        return True
    return False


def states(group):
    """The states of the processes in a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group:
                found.append(state)
    return found


def forked(work):
    """Run `work` in a forked child; its process number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads at every fork
        child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def succeeded(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def forget():
    """Forget loaded libraries, as a new process has none."""
    build._libraries.clear()


def entry(source):
    return cache.folder() / f"{cache.key(source, compiler.find())}.so"


def other_process(script, **environment):
    """Run Python lines in a new process in which every warning is an error; what it printed."""
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    lines = ["from dashpot.engine.native import build", textwrap.dedent(script)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


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

    def test_the_time_of_the_compiler_is_known_when_it_has_ended(self, scripted):
        scripted("sleep 0.2")
        making = build.start(answering(2))
        assert making.seconds is None
        until(making.ready)
        time.sleep(0.3)  # is not counted, though it lies before the result
        making.result()
        assert 0.15 < making.seconds < 30
        assert making.seconds < time.monotonic() - making._began - 0.25

    def test_two_starts_share_one_compiler(self, logged):
        first = build.start(answering(3))
        assert build.start(answering(3)) is first
        assert first.result().answer() == 3
        assert len(logged()) == 1

    def test_starting_what_is_known_starts_no_compiler(self):
        build.library(answering(4))
        before = build.compilations()
        making = build.start(answering(4))
        assert making.ready()
        assert making.result().answer() == 4
        assert build.compilations() == before

    def test_ready_answers_at_once_while_a_slow_compiler_works(self, scripted):
        scripted("sleep 0.5")
        began = time.perf_counter()
        making = build.start(answering(5))
        started = time.perf_counter() - began
        times = []
        while not making.ready():
            now = time.perf_counter()
            making.ready()
            times.append(time.perf_counter() - now)
        assert started < 0.4
        assert len(times) > 500
        assert sorted(times)[len(times) // 2] < 1e-3  # microseconds; the worst may hit a busy machine
        assert making.result().answer() == 5

    def test_ready_answers_at_once_while_another_thread_waits_for_the_result(self, scripted):
        scripted("sleep 0.5")
        making = build.start(answering(6))
        waiting = threading.Thread(target=making.result)
        waiting.start()
        time.sleep(0.05)
        began = time.perf_counter()
        assert not making.ready()
        assert time.perf_counter() - began < 0.3
        waiting.join()
        assert making.ready()


class TestOtherProcess:
    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
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

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_PRELOAD and /proc/self/maps")
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
        assert set(printed[1:]) == {str(renamed), runtime}  # the latter is torch's own, and none is the compiler's
        assert b"libgomq.so.1" in kept.read_bytes()
        assert b"libgomp.so.1" not in kept.read_bytes()

    def test_at_exit_the_compiler_is_ended_and_its_folder_removed(self, scripted, clean_slate):
        scripted("sleep 100")
        script = f"""
            import multiprocessing, warnings
            from pathlib import Path
            making = build.start({answering(7)!r})
            assert not making.ready()

            def child():
                assert not making.ready()  # starts over with a compiler of its own
                assert build.compilations() == 2, build.compilations()

            build.PATIENCE = 0.0
            warnings.simplefilter("ignore", DeprecationWarning)
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0
            assert not making.ready()
            print(len(list(Path({str(clean_slate)!r}).glob("dashpot-build-*"))), making._job._process.pid)
        """
        folders, process = map(int, other_process(script).split())
        assert folders == 1
        assert ended(process)
        assert list(clean_slate.glob("dashpot-build-*")) == []


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda content, other: b"", id="empty"),
            pytest.param(lambda content, other: content[:-1], id="truncated by one byte"),
            pytest.param(lambda content, other: content[: len(content) // 2], id="half"),
            pytest.param(lambda content, other: content[: -cache.TRAILER], id="without its checksum"),
            pytest.param(lambda content, other: content[-cache.TRAILER :], id="only its checksum"),
            pytest.param(lambda content, other: content + b"x", id="with something after it"),
            pytest.param(lambda content, other: content.replace(b"answer", b"insert", 1), id="changed"),
            pytest.param(lambda content, other: other, id="another kernel"),
        ],
    )
    def test_a_damaged_entry_is_rebuilt_and_not_run(self, damage, logged, tmp_path, monkeypatch):
        for number in (8, 9):
            build.library(answering(number))
        intact, other = (entry(answering(number)).read_bytes() for number in (8, 9))
        # In another folder, for a library that a process has loaded is not looked at again under its old name.
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "damaged"))
        forget()
        path = entry(answering(8))
        path.write_bytes(damage(intact, other))
        path.chmod(0o600)
        assert damage(intact, other) != intact
        assert build.loaded(answering(8)) is None
        assert build.library(answering(8)).answer() == 8
        assert len(logged()) == 3
        assert cache.read(cache.folder(), path.stem) == path

    def test_an_entry_that_others_could_have_written_is_rebuilt(self):
        build.library(answering(10))
        forget()
        assert build.loaded(answering(10)) is not None
        entry(answering(10)).chmod(0o620)
        forget()
        assert build.loaded(answering(10)) is None
        assert build.library(answering(10)).answer() == 10
        assert entry(answering(10)).stat().st_mode & 0o777 == 0o600

    def test_a_link_or_a_pipe_in_the_place_of_an_entry_is_not_followed(self, tmp_path):
        build.library(answering(11))
        path = entry(answering(11))
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
        assert cache.read(cache.folder(), path.stem) is None
        path.unlink()
        os.mkfifo(path, 0o600)
        assert cache.read(cache.folder(), path.stem) is None


class TestFolder:
    def test_a_folder_others_can_write_to_is_refused_with_one_warning_and_not_used(self):
        folder = cache.folder()
        build.library(answering(12))
        planted = entry(answering(12)).read_bytes()
        folder.chmod(0o770)
        forget()
        with pytest.warns(
            RuntimeWarning, match=rf"{folder}.* by others.*chmod go-w.*{cache.VARIABLE}.* anew\.$"
        ) as caught:
            assert build.loaded(answering(12)) is None
        assert len(caught) == 1
        before = build.compilations()
        assert build.library(answering(12)).answer() == 12
        assert build.library(answering(13)).answer() == 13
        assert build.compilations() == before + 2
        assert [path.read_bytes() for path in folder.iterdir()] == [planted]
        assert build.loaded(answering(13)).answer() == 13

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.warns(RuntimeWarning, match=rf"{tmp_path / 'file'}.*cannot be made.*{cache.VARIABLE}"):
            assert build.library(answering(15)).answer() == 15

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_a_disk_that_is_full_or_read_only_does_not_stop_the_kernel(self, number, monkeypatch):
        real, folder = cache.write, cache.folder()

        def write(place, name, built):
            if place == folder:
                raise OSError(number, os.strerror(number))
            return real(place, name, built)

        monkeypatch.setattr(cache, "write", write)
        with pytest.warns(RuntimeWarning, match=rf"{folder}.*{os.strerror(number)}") as caught:
            assert build.library(answering(16)).answer() == 16
        assert len(caught) == 1
        assert build.library(answering(17)).answer() == 17

    def test_a_folder_that_lets_no_program_run_does_not_stop_the_kernel(self, monkeypatch):
        real, folder = ctypes.CDLL, cache.folder()

        def load(path):
            if Path(path).parent == folder:
                raise OSError(f"{path}: failed to map segment from shared object")
            return real(path)

        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.warns(RuntimeWarning, match="failed to map segment"):
            assert build.library(answering(18)).answer() == 18

    def test_where_no_folder_lets_a_program_run_the_cure_is_another_cache(self, monkeypatch):
        def load(path):
            raise OSError(f"{path}: failed to map segment from shared object")

        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.raises(build.BuildError, match=rf"programs may not run there .*: set {cache.VARIABLE} to a folder"):
            build.library(answering(19))

    def test_without_a_folder_to_compile_in_the_sentence_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(build.BuildError, match=r"no folder to compile.*set TMPDIR"):
            build.library(answering(20))


class TestFaults:
    def test_no_compiler(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert build.loaded(answering(21)) is None
        with pytest.raises(
            build.BuildError, match=r"^No C\+\+ compiler .* is on the search path: .*apt install g\+\+.*CXX"
        ):
            build.library(answering(21))

    def test_a_compile_error_is_told_by_its_first_line(self):
        making = build.start('extern "C" int answer() { return nothing; }')
        until(making.ready)
        for _ in range(2):
            with pytest.raises(
                build.BuildError, match=r"kernel\.cpp:1:\d+: error: .*nothing.*\): update it, or set CXX"
            ):
                making.result()
        assert making.ready()
        assert making.seconds is not None
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
        monkeypatch.setattr(job, "TIMEOUT", 1.0)
        with pytest.raises(build.BuildError, match="did not end within"):
            build.library(answering(24))
        assert ended(hanging())

    def test_a_compiler_that_vanishes_is_told(self, scripted):
        script = scripted("")
        compiler.find()
        script.unlink()
        with pytest.raises(build.BuildError, match="No such file"):
            build.Build(answering(25), compiler.Compiler(str(script), "", ())).result()


class TestEnds:
    def test_a_build_that_nobody_holds_ends_its_compiler(self, hanging, clean_slate):
        making = build.start(answering(26))
        process = hanging()
        assert not ended(process)
        del making
        gc.collect()
        assert ended(process)
        assert list(clean_slate.iterdir()) == []
        assert list(cache.folder().iterdir()) == []

    def test_a_forked_child_starts_over_and_leaves_the_compiler_of_its_parent_alone(self, scripted, monkeypatch):
        scripted("sleep 0.4")
        monkeypatch.setattr(build, "PATIENCE", 0.05)
        making = build.start(answering(27))
        before = build.compilations()

        def child():
            assert not making.ready()
            assert making.result().answer() == 27
            assert build.compilations() == before + 1

        assert succeeded(forked(child))
        assert making.result().answer() == 27

    def test_a_child_forked_while_a_thread_holds_every_lock_is_not_stuck(self, scripted, monkeypatch):
        scripted("sleep 0.3")
        monkeypatch.setattr(build, "PATIENCE", 0.05)
        making = build.start(answering(28))

        def child():
            signal.alarm(20)
            assert making.result().answer() == 28
            assert build.library(answering(29)).answer() == 29

        with making._mutex, build._lock:
            holder = forked_elsewhere(child)
            assert succeeded(holder)
        making.result()

    def test_a_child_that_ends_early_does_not_end_the_compiler_of_its_parent(self, scripted):
        scripted("sleep 0.3")
        making = build.start(answering(30))

        assert succeeded(forked(build._builds.clear))
        assert multiprocessing_child() == 0
        assert making.result().answer() == 30


def forked_elsewhere(work):
    """Fork in another thread than the one that holds the locks."""
    children = []
    thread = threading.Thread(target=lambda: children.append(forked(work)))
    thread.start()
    thread.join()
    return children[0]


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
    def test_threads_of_one_process_share_one_compiler(self, logged):
        found, barrier = [], threading.Barrier(16)

        def work():
            barrier.wait()
            found.append(build.library(answering(31)))

        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [library.answer() for library in found] == [31] * 16
        assert len(set(map(id, found))) == 1
        assert len(logged()) == 1

    @pytest.mark.parametrize("processes", [8, pytest.param(50, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
    def test_processes_with_threads_that_start_with_one_cold_cache(self, processes, locks, logged, monkeypatch):
        monkeypatch.setattr(build, "PATIENCE", 300.0)
        if not locks:
            monkeypatch.setattr(cache.fcntl, "lockf", refuse)

        def work():
            signal.alarm(300)
            wrong = []

            def thread():
                for number in (32, 33):
                    if build.library(answering(number)).answer() != number:
                        wrong.append(number)

            threads = [threading.Thread(target=thread) for _ in range(4)]
            for each in threads:
                each.start()
            for each in threads:
                each.join()
            assert not wrong

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
        killed = holder(answering(34))
        making = build.start(answering(34))
        assert not making.ready()
        os.kill(killed, signal.SIGKILL)
        assert not succeeded(killed)
        assert making.result().answer() == 34

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


def holder(source):
    """A child that holds the claim on a kernel until it is killed."""
    reading, writing = os.pipe()

    def work():
        claim = cache.Claim(cache.folder(), cache.key(source, compiler.find()))
        assert claim.taken()
        signal.alarm(60)
        os.write(writing, b"x")
        signal.pause()

    child = forked(work)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return child
