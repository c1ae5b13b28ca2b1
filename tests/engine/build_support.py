"""Support for tests of builds: shell scripts as compilers, a cache and temporary folder per test, forked children."""

import contextlib
import gc
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
from processes import LIMIT

from dashpot.engine.native import build, cache, compiler

ROOT = str(Path(build.__file__).parents[3])


def source_returning(number):
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
def isolated_cache(tmp_path, monkeypatch):
    """Use empty caches, and a temporary folder that must be empty at the end of the test."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    for name, value in {"_libraries": {}, "_accepted": {}, "_warned": set(), "_logged": False}.items():
        monkeypatch.setattr(build, name, value)
    gc.freeze()  # the collection below then visits only the objects of this test
    yield temporary
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.fixture
def scripted_compiler(tmp_path, monkeypatch):
    """Set `CXX` to a shell script that runs commands and then the real compiler; `--version` runs only the compiler."""
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
def logged(scripted_compiler, tmp_path):
    """Use a compiler that logs its process id. Return a function that reads the log."""
    log = tmp_path / "log"
    log.touch()
    scripted_compiler(f"echo $$ >> {log}")
    return lambda: [int(line) for line in log.read_text().split()]


@pytest.fixture
def hanging(scripted_compiler, tmp_path):
    """Use a compiler that hangs. Return a function that waits until the compiler starts and returns its process id."""
    log = tmp_path / "log"
    scripted_compiler(f"echo $$ > {log}.part; mv {log}.part {log}; sleep 100")

    def process():
        until(log.exists)
        return int(log.read_text())

    return process


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition never met"
        time.sleep(0.002)


def ended(compiler_process):
    """Check that the compiler has been reaped, and wait until its subprocesses have exited.

    Subprocesses are reaped by init, which does not exist in some containers, so zombies count as exited.
    """
    try:
        os.kill(compiler_process, 0)
    except ProcessLookupError:
        until(lambda: "R" not in states(compiler_process) and "S" not in states(compiler_process))
        return True
    return False


def states(group):
    """Return the states of the processes in a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has exited in the meantime
            state, _, its_group, *_ = path.read_text().rpartition(")")[2].split()
            if int(its_group) == group:
                found.append(state)
    return found


def forked(work):
    """Run `work` in a forked child, and return the child's process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about threads at every fork
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


def clear_loaded():
    """Clear the loaded libraries, as in a new process."""
    build._libraries.clear()


def entry(source):
    return cache.folder() / f"{cache.key(source, compiler.find())}.so"


def other_process(script, **environment):
    """Run lines of Python in a new process, with warnings as errors, and return the output."""
    path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])
    lines = ["from dashpot.engine.native import build", textwrap.dedent(script)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def together(*works):
    """Run functions in concurrent threads, and raise the first exception."""
    barrier, faults = threading.Barrier(len(works)), []

    def run(work):
        barrier.wait()
        try:
            work()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]


class Compiling:
    """A thread that compiles a kernel. `with` waits until the compiler starts, and exit waits for the library."""

    def __init__(self, source):
        self.library = None
        self._source = source
        self._thread = threading.Thread(target=self._work)

    def _work(self):
        self.library = build.library(self._source)

    def __enter__(self):
        before = build.compilations()
        self._thread.start()
        until(lambda: build.compilations() > before)
        return self

    def __exit__(self, *_):
        self._thread.join()


def holder(source):
    """Fork a child that holds the lock of a kernel until it is killed."""
    reading, writing = os.pipe()

    def work():
        lock = cache.CompileLock(cache.folder(), cache.key(source, compiler.find()))
        assert lock.try_acquire()
        signal.alarm(int(LIMIT))
        os.write(writing, b"x")
        signal.pause()

    child = forked(work)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return child
