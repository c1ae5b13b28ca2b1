"""Process of `dashpot worker`: rebuilds the study of a folder and executes items."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from dashpot.comparison.pipe_progress import PipeProgress
from dashpot.comparison.progress import StudyProgress, progress_for
from dashpot.comparison.resume_text import resume_text
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.study_items import items
from dashpot.comparison.study_queue import open_queue
from dashpot.comparison.worker import Worker
from dashpot.comparison.worker_process import STORAGE_VARIABLE
from dashpot.errors import DashpotError
from dashpot.runs.environment import torch_threads
from dashpot.runs.signals import TERMINATION_SIGNALS, Interrupted, interruptible
from dashpot.runs.study_names import study_of_names

STOP_LIMIT = 75.0
"""Seconds after the request to stop until a worker ends without finishing its step; more than its parent waits."""
STOPPED_HANGING = 130


def run_worker(folder: Path, *, storage: str | None = None, threads: int | None = None, pipe: bool = False) -> int:
    """Execute items of the study in a folder until the study is finished, and return the exit code.

    Args:
        folder: Folder with `study.json`.
        storage: URL of the storage. Default: the environment variable `DASHPOT_STORAGE`, else the journal of the
            folder.
        threads: Number of torch threads. Default: that of the study.
        pipe: Whether a parent process reads events from stdout and writes requests to stdin.

    Raises:
        RunError: If the folder has no study, or a file or the storage cannot be written.
        Interrupted: If a signal was received.
    """
    storage = storage or os.environ.get(STORAGE_VARIABLE) or None
    if not pipe:
        _work(StudyFolder(folder), storage, threads, progress_for(sys.stdout), Requests())
        print("The study is finished.")
        return 0
    requests = Requests(_take_stdin())
    with _events() as stream:
        progress = PipeProgress(stream)
        try:
            _work(StudyFolder(folder), storage, threads, progress, requests)
        except Interrupted as stop:
            return stop.code
        except DashpotError as error:
            progress.send("error", message=str(error))
            return 2
        progress.send("finished")
    return 0


class Requests:
    """Requests of the parent process: numbers of deaths by item, and the end of the stream as the request to stop.

    Args:
        descriptor: File descriptor of a stream of JSON Lines; None for a worker without a parent process.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.deaths: dict[str, int] = {}
        self.stop = threading.Event()
        if descriptor is not None:
            threading.Thread(target=self._read, args=(descriptor,), daemon=True).start()

    def check(self) -> None:
        """Raise `Interrupted` after the request to stop."""
        if self.stop.is_set():
            raise Interrupted

    def _read(self, descriptor: int) -> None:
        # No buffered file: Python cannot exit while a thread waits for one.
        rest = b""
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(descriptor, 65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.deaths.update(json.loads(line).get("deaths", {}))
        self.stop.set()
        time.sleep(STOP_LIMIT)
        os._exit(STOPPED_HANGING)  # a step that does not end, in a process whose parent may have died


def _work(
    folder: StudyFolder, storage: str | None, threads: int | None, progress: StudyProgress, requests: Requests
) -> None:
    saved = folder.study()
    study = study_of_names(saved.get("names"), folder.path / "study.json")
    command, known = saved.get("command"), {}
    with (
        open_queue(study, folder, storage, lambda: resume_text(study, folder, known, command)) as queue,
        closing(progress),
        torch_threads(study.threads if threads is None else threads),
        _check_interrupt(requests, progress) as check_interrupt,
    ):
        planned = items(study)
        queue.add(planned)
        progress.begin(len(planned), study.settings()["steps"])
        worker = Worker(study, queue, folder, progress, check_interrupt, command, requests.deaths, known)
        try:
            worker.work()
        finally:
            if isinstance(progress, PipeProgress):
                progress.send("times", times=worker.times.plain())


@contextmanager
def _check_interrupt(requests: Requests, progress: StudyProgress) -> Iterator[Callable[[], None]]:
    """Yield a function that raises `Interrupted` after a signal or a request to stop.

    With a parent process, Ctrl-C, which a terminal sends to all its processes, is left to the parent.
    """
    signals = TERMINATION_SIGNALS
    if isinstance(progress, PipeProgress):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signals = tuple(number for number in signals if number != signal.SIGINT)
    with interruptible(signals) as check_signals:

        def check() -> None:
            requests.check()
            check_signals()

        yield check


def _take_stdin() -> int:
    """Return a descriptor of stdin, which is empty for the task."""
    requests = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return requests


@contextmanager
def _events() -> Iterator[BinaryIO]:
    """Yield a stream to the parent process, and redirect other output, such as that of a task, to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "wb") as stream:
        os.dup2(2, 1)
        yield stream
