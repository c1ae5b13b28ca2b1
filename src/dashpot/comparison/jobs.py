"""Worker processes of a study: start, progress, deaths and interrupts."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence

from dashpot.comparison.pipe_progress import forward
from dashpot.comparison.progress import StudyProgress, item_label
from dashpot.comparison.worker_process import Inbox, WorkerProcess, death_reason
from dashpot.comparison.worker_times import WorkerTimes
from dashpot.errors import RunError
from dashpot.runs.signals import Interrupted
from dashpot.utils.format import counted

POLL = 0.1
"""Seconds between two checks of the workers for their end."""
STOP_LIMIT = 60.0
"""Seconds after a request to stop until a worker is killed."""
NOTICE_AFTER = 2.0
"""Seconds after a request to stop until a note that the command waits for workers."""
STARTS = 3
"""Number of workers that may die during their start."""
ERROR, STOPPED = 2, (129, 130, 143)
"""Exit codes of workers: error with a message, and stop by a signal."""


class Jobs:
    """Worker processes of one study.

    A worker that dies is replaced, and its item is taken over. Workers are not replaced after an error that they have
    reported, such as a full disk.

    Args:
        command: Command line of a worker.
        environment: Environment variables of the workers.
        jobs: Number of workers.
        progress: Progress report of the study.
        check_interrupt: Function that raises `Interrupted` after a signal.
        times: Times to which those of the workers are added.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        jobs: int,
        progress: StudyProgress,
        check_interrupt: Callable[[], None],
        times: WorkerTimes,
    ) -> None:
        self.progress, self.check_interrupt, self.jobs, self.times = progress, check_interrupt, jobs, times
        self.deaths: dict[str, int] = {}
        self._command, self._environment = command, environment
        self._inbox: Inbox = queue.SimpleQueue()
        self._workers: dict[int, WorkerProcess] = {}
        self._errors: list[str] = []
        self._shown: set[str] = set()
        self._failed_starts = self._deaths_since_finish = 0
        self._stopping = self._finished = False

    def run(self) -> None:
        """Start the workers and wait for their end.

        Raises:
            RunError: If all workers have stopped with an error, or workers die repeatedly without finishing an item.
            Interrupted: If a signal was received; all workers have stopped.
        """
        try:
            for number in range(1, self.jobs + 1):
                self._start(number)
            while self._workers:
                self.check_interrupt()
                self._poll()
            if self._errors and not self._finished:
                raise RunError(self._errors[-1])
        except Interrupted:
            self._stop()
            raise
        finally:
            for worker in self._workers.values():
                worker.kill()

    def _start(self, number: int) -> None:
        self._workers[number] = WorkerProcess(number, self._command, self._environment, self._inbox)
        if self.deaths:
            self._workers[number].send_deaths(self.deaths)

    def _poll(self) -> None:
        """Wait for the next line of a worker or the end of workers, and handle it."""
        self._receive(POLL)
        for worker in list(self._workers.values()):
            code = worker.exit_code()
            if code is not None:
                self._drain()
                del self._workers[worker.number]
                self._ended(worker, code)

    def _receive(self, timeout: float) -> bool:
        """Handle one line of a worker, and return whether there was one before the timeout."""
        try:
            number, kind, line = self._inbox.get(timeout=timeout)
        except queue.Empty:
            return False
        worker = self._workers.get(number)
        if worker is not None and kind == "out":
            self._event(worker, line)
        elif worker is not None:
            self._error_line(worker, line.decode(errors="replace").rstrip())
        return True

    def _drain(self) -> None:
        while self._receive(0.001):
            pass

    def _event(self, worker: WorkerProcess, line: bytes) -> None:
        event = forward(line, self.progress, worker.number)
        match event.get("event"):
            case "ready":
                worker.ready = True
                self.times.start_s += time.perf_counter() - worker.started
            case "start":
                worker.key = event["key"]
            case "finish":
                worker.key, self._deaths_since_finish = None, 0
            case "drop":
                worker.key = None
            case "finished":
                self._finished = worker.finished = True
            case "error":
                worker.message = event["message"]
            case "times":
                self.times.add(WorkerTimes(**event["times"]))

    def _error_line(self, worker: WorkerProcess, line: str) -> None:
        """Keep a line of stderr, and show it once, since all workers print the same warnings."""
        worker.errors.append(line)
        if line and line not in self._shown and not self._stopping:
            self._shown.add(line)
            self.progress.note(line)

    def _ended(self, worker: WorkerProcess, code: int) -> None:
        """Handle the end of a worker: finished, stopped, error, or death."""
        if worker.finished or code == 0:
            return
        self.progress.drop(worker.number)
        if code in STOPPED:
            self.progress.note(f"Worker {worker.number} was stopped by a signal.")
            if not self._workers:
                raise Interrupted(code=code)
        elif code == ERROR and worker.message:
            if worker.message not in self._errors:
                self._errors.append(worker.message)
                self.progress.note(f"Worker {worker.number} has stopped: {worker.message}")
        else:
            self._died(worker, death_reason(code))

    def _died(self, worker: WorkerProcess, reason: str) -> None:
        during = "" if worker.key is None else f" during {item_label(worker.key)}"
        last = next((f" ({line})" for line in reversed(worker.errors) if line), "") if "code" in reason else ""
        message = f"Worker {worker.number} died{during}: {reason}{last}."
        self.progress.note(message if worker.key is None else f"{message} Its item is taken over.")
        self._failed_starts += not worker.ready
        self._deaths_since_finish += 1
        if self._failed_starts >= STARTS or self._deaths_since_finish > 4 * self.jobs + 2:
            raise RunError(message)
        if worker.key is not None:
            self.deaths[worker.key] = self.deaths.get(worker.key, 0) + 1
            for other in self._workers.values():
                other.send_deaths(self.deaths)
        self._start(worker.number)

    def _stop(self) -> None:
        """Ask all workers to stop, and wait for their end; kill those that do not stop within the limit."""
        self._stopping = True
        for worker in self._workers.values():
            worker.request_stop()
        start, is_noted = time.monotonic(), False
        while self._workers and time.monotonic() < start + STOP_LIMIT:
            self._receive(POLL)
            if not is_noted and time.monotonic() > start + NOTICE_AFTER:
                self.progress.note(f"Waiting for the current step of {counted(len(self._workers), 'worker')}.")
                is_noted = True
            for worker in list(self._workers.values()):
                if worker.exit_code() is not None:
                    self._drain()
                    del self._workers[worker.number]
