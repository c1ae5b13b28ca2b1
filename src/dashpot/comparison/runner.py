"""Execution of a study on the work queue of its storage, in this process or in worker processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from dashpot.comparison.jobs import Jobs
from dashpot.comparison.progress import SilentProgress, StudyProgress
from dashpot.comparison.pulled_records import pull_records
from dashpot.comparison.resume_text import resume_text
from dashpot.comparison.sessions import write_session
from dashpot.comparison.study_folder import StudyFolder
from dashpot.comparison.study_items import finished, items
from dashpot.comparison.study_queue import open_queue
from dashpot.comparison.worker_process import threads_per_worker, worker_command, worker_environment
from dashpot.comparison.worker_times import WorkerTimes
from dashpot.constraints import check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.choices import COUNT
from dashpot.runs.environment import torch_threads
from dashpot.runs.records import Run
from dashpot.runs.signals import TERMINATION_SIGNALS, Interrupted, interruptible
from dashpot.runs.study import Study
from dashpot.scheduling.work_items import Outcome
from dashpot.scheduling.work_queue import WorkQueue
from dashpot.utils.optional_packages import need


def run_study(
    study: Study,
    out: Path,
    *,
    storage: str | None = None,
    jobs: int = 1,
    progress: StudyProgress | None = None,
    command: str | None = None,
) -> list[Run]:
    """Execute the tuning trials and runs of `study` that are missing from `out`, and return the records of the runs.

    Several processes and machines may execute the same study at the same time, with the same folder or the same
    `storage`; no item is executed twice. An interrupted run resumes after its last evaluation. On the same machine,
    with the same versions and number of threads, the results of a resumed run are bit-identical to those of an
    uninterrupted run. Each run seeds the global generators of torch, Python and numpy; their previous states are
    restored afterwards.

    Args:
        study: Study to execute.
        out: Folder for `study.json`, the journal and the records, created if missing.
        storage: URL of an Optuna storage that several machines share, such as "postgresql://host/name". Default: a
            journal in `out`.
        jobs: Number of worker processes, at least 1; 1 executes the study in this process. More than 1 requires a study
            of names, such as those of the command line.
        progress: Progress report. Default: no report.
        command: Command line that repeats the study, stored in the records.

    Returns:
        The records of the study, ordered by method and then by seed.

    Raises:
        ArgumentError: If an optimizer rejects its settings, or `jobs` is out of range; in this case, nothing is
            written.
        RunError: If the folder or the storage belongs to a different study or program, or cannot be written, or if
            optuna is not installed.
        Interrupted: If Ctrl-C was pressed or SIGTERM received. All recorded evaluations are kept.
    """
    complete_study(study, out, storage=storage, jobs=jobs, progress=progress, command=command)
    return StudyFolder(Path(out)).runs()


def complete_study(
    study: Study,
    out: Path,
    *,
    storage: str | None = None,
    jobs: int = 1,
    progress: StudyProgress | None = None,
    command: str | None = None,
) -> dict[str, Outcome]:
    """Execute a study as `run_study`, and return the outcomes of all items by key."""
    check("run_study", "jobs", jobs, COUNT)
    if jobs > 1 and study.names is None:
        raise ArgumentError(
            "run_study: jobs must be 1 for a study of Python objects, which worker processes cannot rebuild, got "
            f"{jobs}."
        )
    packages = ("optuna", "scipy") if study.budget > 1 and study.sampler == "qmc" else ("optuna",)
    need("A study", *packages, extra="study")
    folder = StudyFolder(Path(out))
    is_new = folder.prepare(study.settings(), command, names=study.names)
    with closing(progress or SilentProgress()) as report:
        session = _Session(study, folder, report, command)
        with ExitStack() as stack:
            try:
                queue = stack.enter_context(open_queue(study, folder, storage, session.resume_text))
            except RunError:
                if is_new:
                    folder.discard()
                raise
            session.execute(queue, jobs, storage)
    return session.known


@dataclass
class _Session:
    """Execution of a study by one command."""

    study: Study
    folder: StudyFolder
    progress: StudyProgress
    command: str | None
    known: dict[str, Outcome] = field(default_factory=dict)

    def execute(self, queue: WorkQueue, jobs: int, storage: str | None) -> None:
        """Execute items until the study is finished, and complete the folder."""
        planned = items(self.study)
        queue.add(planned)
        self.progress.begin(len(planned), self.study.settings()["steps"])
        self.known = queue.outcomes()
        if self.known:
            self.progress.skip(len(self.known))
        try:
            with interruptible(TERMINATION_SIGNALS) as check_interrupt:
                if not finished(self.study, self.known):
                    self._work(queue, jobs, storage, check_interrupt)
        except Interrupted as stop:
            with contextlib.suppress(RunError):  # a lost storage
                self.known = queue.outcomes()
            raise Interrupted(f"Stopped. {self.resume_text()}", stop.code) from None
        self.known = queue.outcomes()
        pull_records(self.folder, self.known)

    def resume_text(self) -> str:
        """Return sentences on the finished items and the command that resumes the study."""
        return resume_text(self.study, self.folder, self.known, self.command)

    def _work(self, queue: WorkQueue, jobs: int, storage: str | None, check_interrupt: Callable[[], None]) -> None:
        """Execute items in this process or in worker processes, and record the times of the workers."""
        start, times = time.perf_counter(), WorkerTimes()
        try:
            if jobs == 1:
                from dashpot.comparison.worker import Worker  # a finished study needs no training loop

                worker = Worker(
                    self.study, queue, self.folder, self.progress, check_interrupt, self.command, {}, self.known, times
                )
                with torch_threads(self.study.threads):
                    worker.work()
            else:
                threads = self.study.threads or threads_per_worker(jobs)
                command, environment = worker_command(self.folder.path, threads), worker_environment(threads, storage)
                Jobs(command, environment, jobs, self.progress, check_interrupt, times).run()
        finally:
            if times.items:
                write_session(self.folder.path, times, jobs, time.perf_counter() - start)
        if jobs > 1 and times.items:
            self.progress.note(times.sentence())
