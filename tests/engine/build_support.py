"""Compilers that are shell scripts, a cache and a temporary folder for each test, forked children."""

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

from dashpot.engine.native import build, cache, compiler

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
    for name, value in {"_libraries": {}, "_refused": {}, "_warned": set(), "_announced": False}.items():
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


def together(*works):
    """Run functions in threads at the same time; the first exception of one is raised."""
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
    """A thread that asks for a kernel: `with` waits until its compiler runs, and at the end for its library."""

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
