"""Several processes of one command on this machine: started together, watched, and stopped together.

What a process finds is what `torchrun` sets, so that the same command runs under that as well. The parent keeps the
place where they meet, on the loopback interface, for as long as it lives.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dashpot.constraints import check
from dashpot.training.distributed.engine import DEVICES
from dashpot.training.distributed.process_group import SUPERVISOR, loopback_interface

__all__ = ["PROCESS_FAILED", "launch"]

PROCESS_FAILED = 4
"""Exit code where a process was killed, or failed without saying why in one sentence."""
REPORTED_CODES = (2, 3, 130)
"""Exit codes of a command that has said what is the matter: a mistake of the caller's, divergence, Ctrl-C."""
GRACE, PATIENCE = 3.0, 5.0
"""Seconds that processes get to end by themselves once one has failed, and to obey SIGTERM."""
HELD, POLL, LINES = 0.5, 0.05, 400
LOST_PEER = re.compile("closed by peer|reset by peer|Broken pipe|Connection refused|Timed out|DistNetworkError")
"""In what a process says that has lost the others."""


def launch(argv: Sequence[str], devices: int, resume_command: Callable[[], str | None]) -> int:
    """Run `devices` processes of a command that train together, and return the exit code.

    The first process has this one's stdout; what the others print there is dropped. A message on stderr that several
    processes give is shown once. As soon as one fails the others are stopped, within seconds. Ctrl-C, SIGTERM and
    SIGHUP go to all of them as Ctrl-C; this process then waits for their tidy end, and a second one reaches them again.

    Args:
        argv: the command, its program first.
        devices: number of processes, at least 1.
        resume_command: called when a process was lost; what it returns is shown as the way to go on.

    Returns:
        0 when all have ended well; the processes' own code where it tells why (2 the caller's mistake, 3 divergence,
        130 Ctrl-C); 4 where one was killed or failed otherwise: a line names it. 128 + number of a signal that this
        process was sent and the others ended by.

    Raises:
        ArgumentError: `devices` is out of range.
    """
    check("launch", "devices", devices, DEVICES)
    with _rendezvous() as port:
        started = [_Process(argv, rank, devices, port) for rank in range(devices)]
        try:
            with _signals_to(started) as stopping:
                failed = _watch(started, stopping)
        finally:
            _end(started)
    for process in started:
        process.drain()
    if failed is None:
        started[0].show()
        return 0
    if stopping and failed.popen.returncode == -signal.SIGINT:  # it had nothing to say before it obeyed
        return 128 + stopping[0]
    code = _tell(started, failed, resume_command)
    return 128 + stopping[0] if stopping and code == 130 else code


@contextmanager
def _rendezvous() -> Iterator[int]:
    """The port of a store on the loopback interface; nobody else can take it in between."""
    import torch.distributed as dist

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        store: Any = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            "127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
    yield port
    del store


class _Process:
    """One of the processes, and what it says on stderr."""

    def __init__(self, argv: Sequence[str], rank: int, world: int, port: int) -> None:
        self.rank, self.world = rank, world
        self.stopped = False  # by this process
        self.ended_at: float | None = None
        self.shown = ""
        self._waiting: deque[tuple[float, str]] = deque()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._lock = threading.Lock()
        self.popen = subprocess.Popen(
            argv,
            env=_environment(rank, world, port),
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches it through this process only, once
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as stream:
            for line in stream:
                with self._lock:
                    self._lines.append(line)
                    self._waiting.append((time.monotonic(), line))

    def poll(self) -> int | None:
        code = self.popen.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = time.monotonic()
        return code

    def send(self, number: int) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def drain(self) -> None:
        """Read what was said to the end; a grandchild that holds the pipe is not waited for long."""
        self._reader.join(timeout=1.0)

    def show(self, older_than: float = 0.0) -> None:
        """Pass on what was said at least so many seconds ago, and not yet shown."""
        now = time.monotonic()
        while self._waiting and now - self._waiting[0][0] >= older_than:
            with self._lock:
                _, line = self._waiting.popleft()
            self.shown += line
            sys.stderr.write(line)
            sys.stderr.flush()

    @property
    def said(self) -> str:
        with self._lock:
            return "".join(self._lines).strip()

    @property
    def name(self) -> str:
        return f"process {self.rank + 1} of {self.world}"


def _environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun would set, and that this process is to be outlived by none."""
    its = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
    its |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    its |= {"TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_RUN_ID": f"dashpot-{os.getpid()}", SUPERVISOR: os.getpid()}
    threads = max(1, (os.cpu_count() or 1) // world)
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": loopback_interface(), "PYTHONUNBUFFERED": 1}
    return {name: str(value) for name, value in {**defaults, **os.environ, **its}.items()}


@contextmanager
def _signals_to(processes: Sequence[_Process]) -> Iterator[list[int]]:
    """Pass what asks this process to end on to all, as Ctrl-C: SIGTERM would not let them save. The list holds it."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, _: Any) -> None:
        came.append(number)
        for process in processes:
            process.send(signal.SIGINT)

    previous = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_PASSED_ON = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _watch(processes: Sequence[_Process], stopping: list[int]) -> _Process | None:
    """Wait until all have ended, or one has failed and the others had time to; that one, or None."""
    first_failure: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        running = [process for process, code in zip(processes, codes, strict=True) if code is None]
        if first_failure is None and any(codes):
            first_failure = time.monotonic()
        if first_failure is None:
            processes[0].show(older_than=HELD)
        if not running:
            break
        if first_failure is not None and not stopping and time.monotonic() - first_failure > GRACE:
            break
        time.sleep(POLL)
    failed = [process for process in processes if process.poll()]
    return min(failed, key=_blame, default=None)


def _blame(process: _Process) -> tuple[bool, bool, bool, float]:
    """Orders processes that failed: one that was killed, one that says why, one that has not just lost another."""
    code, ended = process.poll() or 0, process.ended_at or 0.0
    process.drain()
    return code >= 0, code not in REPORTED_CODES, bool(LOST_PEER.search(process.said)), ended


def _end(processes: Sequence[_Process]) -> None:
    """Stop those that still run: asked first, then not asked."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL)
    for process in processes:
        if process.poll() is None:
            process.popen.kill()
        process.popen.wait()


def _tell(processes: Sequence[_Process], failed: _Process, resume_command: Callable[[], str | None]) -> int:
    """Say on stderr what became of `failed`, and how to go on; the exit code."""
    code = failed.popen.returncode
    if failed.rank == 0:
        failed.show()
    elif failed.said not in processes[0].shown:  # the first may have said the same
        print(failed.said, file=sys.stderr)
    if code in REPORTED_CODES:
        return code
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    others = "; the others were stopped" if len(processes) > 1 else ""
    command = resume_command()
    go_on = f" Go on with: {command}" if command else ""
    print(f"{failed.name[0].upper()}{failed.name[1:]} {how}{others}.{go_on}", file=sys.stderr)
    return PROCESS_FAILED


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
