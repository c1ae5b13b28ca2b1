"""Processes of kills.py: their commands, the moments at which they are interrupted, and the interruptions."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import kill_tasks

import dashpot_command

FORK = multiprocessing.get_context("fork")
MOMENTS = {"start": 1, "training": 3, "evaluation": 2, "checkpoint": 3, "record": 2}
"""Moments of interruptions, and their relative numbers."""
LIMIT = 1800.0
"""Seconds after which a process is considered to hang."""


class Case(NamedTuple):
    """A command, and the interruptions that it receives."""

    name: str
    words: str
    signals: tuple[str, ...]
    resumes: bool = True  # with --resume; otherwise, with the same command


_COMMON = "--lr 0.01 --threads 1 --checkpoint-every 3 --keep 3 --log csv,jsonl"
_DIGITS = f"{_COMMON} --ema 0.99 --accumulate 2 --schedule 1cycle --epochs 8"
_TOKENS = f"{_COMMON} --ema 0.99 --accumulate 2 --schedule 1cycle --steps 80 --evaluate-every 12"
_TRAIN = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1")
_LOADER = ("SIGKILL of child 0", "SIGKILL of child 0", "SIGKILL", "SIGTERM", "SIGINT")
_DEVICES = ("SIGKILL of child 0", "SIGKILL of child 1", "SIGTERM of child 1", "SIGKILL", "SIGTERM", "SIGUSR1")


def _train(name: str, options: str, signals: tuple[str, ...] = _TRAIN) -> Case:
    task, _, optimizer = name.partition("-")
    return Case(name, f"train {kill_tasks.__file__}:{task} --optimizer {optimizer.split('-')[0]} {options}", signals)


def _compare(task: str) -> Case:
    words = f"compare {kill_tasks.__file__}:{task} --methods adamw,esgd --seeds 2 --epochs 6 --threads 1"
    return Case(f"compare-{task}", words, ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"), resumes=False)


CASES = [
    *(_train(f"digits-{method}", _DIGITS) for method in ("adamw", "autosgm", "esgd", "nadam", "sgd")),
    *(_train(f"tokens-{method}", _TOKENS) for method in ("adamw", "nadam")),
    *(_train(f"gan-{method}", f"{_COMMON} --epochs 6") for method in ("adamw", "autosgm")),
    _train("loader-adamw", f"{_COMMON} --ema 0.99 --accumulate 2 --epochs 6", _LOADER),
    _compare("digits"),
    _compare("tokens"),
    _train("tokens-adamw-devices", f"{_TOKENS} --devices 2", _DEVICES),
]
"""All cases of the benchmark."""


class Times(NamedTuple):
    """Seconds of an uninterrupted run: to its first checkpoint, and from there to its end."""

    start: float
    active: float


class Subject:
    """A run in a folder, which is started, interrupted and resumed.

    Args:
        case: Command and interruptions.
        folder: Folder of the run.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.log, self.mark = (folder.with_name(f"{folder.name}.{end}") for end in ("log", "evaluation"))
        self.process: Any = None

    # ---- processes --------------------------------------------------------------------------------------------------

    def words(self) -> list[str]:
        """Return the words of the command that starts or resumes the run."""
        if self.case.resumes and (self.folder / "run.toml").exists():
            return ["train", "--resume", str(self.folder)]
        return [*shlex.split(self.case.words), "--out", str(self.folder)]

    def start(self, *, fresh: bool) -> None:
        """Start or resume the run, in a new process or in a copy of this one, which has loaded torch."""
        self.log.write_text("")
        words, environment = self.words(), {kill_tasks.EVALUATION: str(self.mark), "OMP_NUM_THREADS": "1"}
        if fresh or "--devices" in self.case.words:
            command = [sys.executable, "-m", "dashpot_command", *words]
            with self.log.open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
            self.process, self.code = process, process.poll
        else:
            process = FORK.Process(target=_run, args=(words, environment, self.log))
            process.start()
            self.process, self.code = process, lambda: process.exitcode

    def send(self, number: int) -> None:
        if self.code() is None:
            os.kill(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end of the process and of its children, and return the exit code."""
        children = _children(self.process.pid)
        reached = self.until(lambda: False, LIMIT)
        others_ended = _wait(lambda: not any(map(_is_running, children)), LIMIT)
        if not (reached and others_ended):
            raise SystemExit(f"{self.folder.name} does not end:\n{self.output()[-3000:]}")
        return self.code()

    def until(self, reached: Callable[[], Any], seconds: float = LIMIT, every: float = 0.005) -> bool:
        """Wait until a condition is true, the process has ended, or a number of seconds has passed."""
        return _wait(lambda: self.code() is not None or reached(), seconds, every)

    def pause(self, seconds: float) -> None:
        """Wait for a number of seconds or until the process has ended."""
        self.until(lambda: False, seconds, every=0.0005)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def finish(self, *, fresh: bool = False) -> Times:
        """Run to the end without interruption."""
        began, before = time.perf_counter(), self.checkpoints()
        self.start(fresh=fresh)
        self.until(lambda: self.checkpoints() - before)
        first = time.perf_counter()
        if self.wait() != 0:
            raise SystemExit(f"{self.folder.name} ended with {self.code()}:\n{self.output()[-3000:]}")
        return Times(first - began, time.perf_counter() - first)

    # ---- files ------------------------------------------------------------------------------------------------------

    def checkpoints(self) -> set[tuple[str, int]]:
        """Return the names and times of the checkpoints."""
        return _states(self._files(".ckpt"), lambda state: state.st_mtime_ns)

    def records(self) -> set[tuple[str, int]]:
        """Return the names and sizes of records and logs."""
        return _states(self._files(".jsonl", ".csv"), lambda state: state.st_size)

    def partial(self) -> list[Path]:
        """Return the temporary files that are being written, or that were left by a killed process."""
        return self._files(".part")

    def _files(self, *endings: str) -> list[Path]:
        """Return the files of the run with any of the endings; faster than `rglob`."""
        found = []
        for folder in (self.folder, self.folder / "checkpoints", self.folder / "runs"):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
                found += [Path(entry.path) for entry in entries if entry.name.endswith(endings)]
        return found

    # ---- interruptions ----------------------------------------------------------------------------------------------

    def interrupt(self, name: str, moment: str, draw: random.Random, times: Times) -> str | None:
        """Start or resume the run and interrupt it.

        Returns:
            Description of the interruption, or None if the run was complete before.
        """
        before, fresh = self.checkpoints(), moment == "start"
        self.start(fresh=fresh)
        self._reach(moment, before, draw, times)
        if self.code() is not None and self.code() == 0:
            return None
        expected = self._signal(name, draw, times)
        code = self.wait()
        if code == 0:
            return None
        if code not in expected:
            raise SystemExit(f"{self.folder.name} ended with {code} after {name}:\n{self.output()[-3000:]}")
        if code in (1, 2, 4):
            self._check_resume_command()
        left = ", partial file left" if self.partial() else ""
        return f"{name}, {moment}{left}"

    def _reach(self, moment: str, before: set[Any], draw: random.Random, times: Times) -> None:
        """Wait for a moment of the run; the files of `before` belong to earlier processes."""
        if moment == "start":
            self.pause(draw.uniform(0, 1.1 * times.start))
            return
        records = self.records()
        if moment != "record" or draw.random() < 0.7:  # otherwise, also the first lines of a resumed process
            self.until(lambda: self.checkpoints() - before)
            records = self.records()
        if moment == "training":
            self.pause(draw.uniform(0, 0.3 * times.active))
        elif moment == "evaluation":
            marked = _changed(self.mark)
            self.until(lambda: _changed(self.mark) != marked, every=0.0005)
            self.pause(draw.uniform(0, 0.02))
        elif moment == "checkpoint":
            self.until(self.partial, every=0.0005)
            self.pause(draw.uniform(0, 0.02))
        else:
            self.until(lambda: self.records() != records, every=0.0005)
            self.pause(draw.uniform(0, 0.01))

    def _signal(self, name: str, draw: random.Random, times: Times) -> tuple[int, ...]:
        """Send the named signal, and return the expected exit codes."""
        kind, _, child = name.partition(" of child ")
        number = signal.Signals[kind]
        if child:
            self._signal_child(int(child), number)
            return (4,) if "--devices" in self.case.words else (1, 2)  # 2 if a checkpoint was being written
        if number != signal.SIGUSR1:
            self.send(number)
            stopped = {signal.SIGTERM: (143,), signal.SIGINT: (130,)}.get(number, ())
            return (-number, *stopped)
        # Afterwards, the process handles the signal.
        self.until(lambda: "Training" in self.output() or "Opening" in self.output())
        before = self.checkpoints()
        self.send(number)
        self.until(lambda: self.checkpoints() - before)
        self.pause(draw.uniform(0, 0.1 * times.active))
        self.send(signal.SIGKILL)
        return (-signal.SIGKILL,)

    def _signal_child(self, index: int, number: int) -> None:
        """Send a signal to a child of the process, as soon as there is one."""
        while self.code() is None:
            children = _children(self.process.pid)
            if len(children) > index:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(children[index], number)
                    return
            time.sleep(0.0005)

    def _check_resume_command(self) -> None:
        """Check that the process has printed the command that resumes the run."""
        found = re.search(r"Resume with: (.*)", self.output())
        if found is None or shlex.split(found[1]) != ["dashpot", "train", "--resume", str(self.folder)]:
            raise SystemExit(f"{self.folder.name} printed no command that resumes it:\n{self.output()[-3000:]}")


def _run(words: list[str], environment: dict[str, str], log: Path) -> None:
    """Run a command in this process, a copy of the benchmark."""
    os.environ.update(environment)
    with log.open("ab") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(descriptor), "w", buffering=1) for descriptor in (1, 2))
    sys.argv = ["dashpot", *words]
    sys.exit(dashpot_command.main())


def _wait(reached: Callable[[], Any], seconds: float, every: float = 0.005) -> bool:
    """Test a condition periodically until it is true or a number of seconds has passed; return whether it is true."""
    end = time.perf_counter() + seconds
    while not reached():
        if time.perf_counter() > end:
            return False
        time.sleep(every)
    return True


def _children(parent: int) -> list[int]:
    """Return the process ids of the children of a process, in the order of their start."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.append((int(fields[19]), int(status.parent.name)))
    return [number for _, number in sorted(found)]


def _is_running(number: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[:1]
    except OSError:
        return False


def _states(paths: Iterable[Path], value: Callable[[os.stat_result], int]) -> set[tuple[str, int]]:
    found = set()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, value(path.stat())))
    return found


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
