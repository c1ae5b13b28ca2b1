"""A worker process of a study, as its parent process sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import IO

STORAGE_VARIABLE = "DASHPOT_STORAGE"
"""Environment variable with the storage URL, which may contain a password and is therefore no argument."""
ERROR_LINES = 20
"""Number of stderr lines that are kept for the error message of a worker."""

Inbox = SimpleQueue[tuple[int, str, bytes]]
"""Lines of all workers: (number of the worker, "out" or "err", line)."""


class WorkerProcess:
    """A running `dashpot worker`, whose stdout has events, and whose stdin has requests of the parent.

    A closed stdin is the request to stop between two steps; it closes also if the parent dies.

    Args:
        number: Number of the worker.
        command: Command line of the process.
        environment: Environment variables of the process.
        inbox: Queue for the lines of the process.
    """

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], inbox: Inbox) -> None:
        self.number = number
        self.key: str | None = None
        self.ready = self.finished = False
        self.message = ""  # of the error with which the worker has stopped
        self.started = time.perf_counter()
        self.errors: deque[str] = deque(maxlen=ERROR_LINES)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment))
        self._readers = [
            threading.Thread(target=_read_lines, args=(stream, number, kind, inbox), daemon=True)
            for stream, kind in ((self.process.stdout, "out"), (self.process.stderr, "err"))
        ]
        for reader in self._readers:
            reader.start()

    def send_deaths(self, deaths: Mapping[str, int]) -> None:
        """Send the numbers of deaths by item, which end an item that kills its worker repeatedly."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the worker has died or is stopping
            self.process.stdin.write(json.dumps({"deaths": dict(deaths)}).encode() + b"\n")
            self.process.stdin.flush()

    def request_stop(self) -> None:
        """Ask the worker to stop between two steps."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def exit_code(self) -> int | None:
        """Return the exit code once the process has ended and its output has been read, else None."""
        code = self.process.poll()
        if code is not None:
            self.request_stop()
            for reader in self._readers:
                reader.join(timeout=0.3)  # processes that the task has started may keep the pipe open
        return code

    def kill(self) -> None:
        """Kill the process if it is running, and wait for its end."""
        self.request_stop()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def worker_environment(threads: int, storage: str | None) -> dict[str, str]:
    """Return the environment of a worker with a number of OpenMP threads that sleep while they wait."""
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "OMP_NUM_THREADS": str(threads)}
    if storage is not None:
        environment[STORAGE_VARIABLE] = storage
    return environment


def worker_command(folder: Path, threads: int) -> list[str]:
    """Return the command line of a worker of the study in a folder."""
    return [sys.executable, "-m", "dashpot", "worker", str(folder), "--threads", str(threads), "--pipe"]


def threads_per_worker(jobs: int) -> int:
    """Return the number of threads of each of `jobs` workers: the cores of this process, divided equally.

    >>> threads_per_worker(10_000)
    1
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def death_reason(code: int) -> str:
    """Return the cause of the end of a process from its exit code.

    >>> death_reason(1)
    'exit code 1'
    >>> death_reason(-9)
    'SIGKILL, which the system sends if memory is exhausted'
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name}, which the system sends if memory is exhausted" if name == "SIGKILL" else name


def _read_lines(stream: IO[bytes] | None, number: int, kind: str, inbox: Inbox) -> None:
    assert stream is not None
    with contextlib.suppress(OSError, ValueError), stream:
        for line in stream:
            inbox.put((number, kind, line))
