"""Launcher of several processes of one command on this machine: start, supervision and shutdown.

The processes get the same environment variables as under `torchrun`, so `torchrun` can start the same command. The
parent hosts the rendezvous store on the loopback interface for its whole lifetime.
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
from dashpot.runs.signals import SAVE_SIGNAL, TERMINATION_SIGNALS, ignored_signal
from dashpot.training.distributed.engine import DEVICES
from dashpot.training.distributed.process_group import SUPERVISOR, loopback_interface

PROCESS_FAILED = 4
"""Exit code if a process was killed, or failed without printing a message of its own."""
REPORTED_CODES = (2, 3, 130)
"""Exit codes of processes that have printed a message of their own: usage error, divergence, Ctrl-C."""
FAILURE_GRACE, TERMINATE_GRACE = 3.0, 5.0
"""Seconds between the first failure and SIGTERM for the other processes, and between SIGTERM and SIGKILL."""
STDERR_DELAY, POLL_INTERVAL, STDERR_LINES = 0.5, 0.05, 400
LOST_PEER = re.compile("closed by peer|reset by peer|Broken pipe|Connection refused|Timed out|DistNetworkError")
"""Pattern in the stderr of a process that failed because it lost the connection to another process."""


def launch(argv: Sequence[str], devices: int, resume_command: Callable[[], str | None]) -> int:
    """Run `devices` processes of a distributed training command and return the exit code.

    Rank 0 inherits stdout; the stdout of the other ranks is discarded. A message that several ranks print to stderr is
    shown once. If one process fails, the others are terminated within seconds. SIGINT, SIGTERM and SIGHUP are forwarded
    to every process as SIGINT; the parent then waits for the processes to end, and also forwards a second signal.
    SIGUSR1, which requests a checkpoint, is forwarded as it is; the processes ignore it until the fit handles it.

    Args:
        argv: Command line, program first.
        devices: Number of processes, at least 1.
        resume_command: Function that returns the command for resuming the run, or None. After a process has been
            killed or has crashed, the function is called and the command is printed.

    Returns:
        * 0 if all processes succeeded;
        * the exit code of a failed process that has printed the reason itself: 2 for a usage error, 3 for divergence,
          130 for Ctrl-C;
        * 4 if a process was killed or failed for another reason; a line that names the process is then printed;
        * 128 + signal number if the parent received a signal and the processes ended because of this signal.

    Raises:
        ArgumentError: If `devices` is out of range.
    """
    check("launch", "devices", devices, DEVICES)
    with _rendezvous() as port:
        with ignored_signal(SAVE_SIGNAL):  # inherited by the processes
            processes = [_Process(argv, rank, devices, port) for rank in range(devices)]
        try:
            with _forward_signals(processes) as received:
                failed = _wait(processes, received)
        finally:
            _terminate(processes)
    for process in processes:
        process.drain()
    if failed is None:
        processes[0].show()
        return 0
    if received and failed.popen.returncode == -signal.SIGINT:  # the default handler prints nothing
        return 128 + received[0]
    code = _report(processes, failed, resume_command)
    return 128 + received[0] if received and code == 130 else code


@contextmanager
def _rendezvous() -> Iterator[int]:
    """Host a TCP store on the loopback interface and yield its port; the listening socket is never released."""
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
    """A launched process and its captured stderr."""

    def __init__(self, argv: Sequence[str], rank: int, world_size: int, port: int) -> None:
        self.rank, self.name = rank, f"process {rank + 1} of {world_size}"
        self.ended_at: float | None = None
        self.shown = ""
        self._pending: deque[tuple[float, str]] = deque()
        self._lines: deque[str] = deque(maxlen=STDERR_LINES)
        self._lock = threading.Lock()
        self.popen = subprocess.Popen(
            argv,
            env=_environment(rank, world_size, port),
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches the process only once, through the parent
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
                    self._pending.append((time.monotonic(), line))

    def poll(self) -> int | None:
        code = self.popen.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = time.monotonic()
        return code

    def send(self, number: int) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)

    def drain(self) -> None:
        """Read the rest of stderr, for at most one second, because a grandchild may keep the pipe open."""
        self._reader.join(timeout=1.0)

    def show(self, older_than: float = 0.0) -> None:
        """Print pending stderr lines that were read at least `older_than` seconds ago."""
        now = time.monotonic()
        while self._pending and now - self._pending[0][0] >= older_than:
            with self._lock:
                _, line = self._pending.popleft()
            self.shown += line
            sys.stderr.write(line)
            sys.stderr.flush()

    @property
    def stderr(self) -> str:
        """The last lines that the process has written to stderr."""
        with self._lock:
            return "".join(self._lines).strip()


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return the environment variables that torchrun sets for one rank, plus the process id of this supervisor."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    run = {"GROUP_RANK": 0, "TORCHELASTIC_RESTART_COUNT": 0, "TORCHELASTIC_RUN_ID": f"dashpot-{os.getpid()}"}
    threads = max(1, (os.cpu_count() or 1) // world_size)
    defaults = {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": loopback_interface(), "PYTHONUNBUFFERED": 1}
    variables = {**defaults, **os.environ, **ranks, **store, **run, SUPERVISOR: os.getpid()}
    return {name: str(value) for name, value in variables.items()}


@contextmanager
def _forward_signals(processes: Sequence[_Process]) -> Iterator[list[int]]:
    """Forward termination signals to all processes as SIGINT, so that they save; yield the list of received signals."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def forward(number: int, _: Any) -> None:
        received.append(number)
        for process in processes:
            process.send(signal.SIGINT)

    def forward_unchanged(number: int, _: Any) -> None:
        for process in processes:
            process.send(number)

    previous = {number: signal.signal(number, forward) for number in TERMINATION_SIGNALS}
    if SAVE_SIGNAL is not None:
        number = signal.Signals[SAVE_SIGNAL]
        previous[number] = signal.signal(number, forward_unchanged)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[_Process], received: list[int]) -> _Process | None:
    """Wait until all processes have ended, or for `FAILURE_GRACE` seconds after a failure.

    Returns:
        The process that caused the failure, or None.
    """
    first_failure: float | None = None
    while True:
        codes = [process.poll() for process in processes]
        if first_failure is None and any(codes):
            first_failure = time.monotonic()
        if first_failure is None:
            processes[0].show(older_than=STDERR_DELAY)
        if None not in codes:
            break
        if first_failure is not None and not received and time.monotonic() - first_failure > FAILURE_GRACE:
            break
        time.sleep(POLL_INTERVAL)
    failed = [process for process in processes if process.poll()]
    return min(failed, key=_blame_order, default=None)


def _blame_order(process: _Process) -> tuple[bool, bool, bool, float]:
    """Return the sort key of a failed process: killed first, then with a reported error, and lost connections last."""
    code, ended = process.poll() or 0, process.ended_at or 0.0
    process.drain()
    return code >= 0, code not in REPORTED_CODES, bool(LOST_PEER.search(process.stderr)), ended


def _terminate(processes: Sequence[_Process]) -> None:
    """End the running processes: SIGTERM, then SIGKILL after `TERMINATE_GRACE`."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + TERMINATE_GRACE
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    for process in processes:
        if process.poll() is None:
            process.popen.kill()
        process.popen.wait()


def _report(processes: Sequence[_Process], failed: _Process, resume_command: Callable[[], str | None]) -> int:
    """Print the failure and the command that resumes the run; return the exit code."""
    code = failed.popen.returncode
    if failed.rank == 0:
        failed.show()
    elif failed.stderr not in processes[0].shown:  # rank 0 may have printed the same message
        print(failed.stderr, file=sys.stderr)
    if code in REPORTED_CODES:
        return code
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
    others = "; the others were stopped" if len(processes) > 1 else ""
    command = resume_command()
    hint = f" Resume with: {command}" if command else ""
    print(f"{failed.name.capitalize()} {how}{others}.{hint}", file=sys.stderr)
    return PROCESS_FAILED


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
