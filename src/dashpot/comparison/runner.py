"""Doing a study: each run recorded as it goes, finished ones skipped, interrupted ones continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dashpot.comparison.environment import torch_threads, versions
from dashpot.comparison.folder import Folder
from dashpot.comparison.header import header
from dashpot.comparison.interrupt import Interrupted, interruptible
from dashpot.comparison.progress import Progress, Silent
from dashpot.comparison.records import Run, encode, epoch_lines, read_run
from dashpot.comparison.study import Plan, Study
from dashpot.errors import RunError
from dashpot.training import Epoch, load_checkpoint, save_checkpoint, train
from dashpot.training.files import append_line, cut_back, write_text

__all__ = ["run_study"]


def run_study(study: Study, out: Path, *, progress: Progress | None = None, command: str | None = None) -> list[Run]:
    """Train every run of `study` that `out` does not hold yet, and return all records.

    An interrupted run goes on from its last finished epoch and ends with the numbers it would have had without the
    interruption, on the same machine, versions and number of threads. (A model that draws from Python's or numpy's
    global generators is outside this promise; torch's are saved.)

    Args:
        study: what to compare.
        out: folder for `study.json` and the records; made where it is missing.
        progress: told what happens; silent by default.
        command: the command that repeats the study, kept in the records.

    Raises:
        ArgumentError: an optimizer refuses its settings; nothing is written then.
        RunError: the folder is of another study or of another program, in use, or not writable.
        Interrupted: Ctrl-C; everything up to each run's last finished epoch is kept.
    """
    progress = progress or Silent()
    folder = Folder(Path(out))
    settings = study.settings()
    folder.claim(settings, command)
    plans = study.plans()
    with folder.locked(), torch_threads(study.threads), progress, interruptible() as check_interrupt:
        progress.begin(len(plans), study.epochs * settings["steps_per_epoch"], study.epochs)
        session = _Session(study, folder, progress, check_interrupt, command)
        try:
            for plan in plans:
                check_interrupt()
                session.do(plan)
        except Interrupted:
            raise Interrupted(_kept(folder, plans, study.epochs, command)) from None
    return folder.runs()


@dataclass(frozen=True)
class _Session:
    """One call of `run_study`, run by run."""

    study: Study
    folder: Folder
    progress: Progress
    check_interrupt: Callable[[], None]
    command: str | None

    def do(self, plan: Plan) -> None:
        """Do one run, unless an earlier session finished it."""
        record = self.folder.record(plan.entry.name, plan.seed)
        checkpoint = self.folder.checkpoint(plan.entry.name, plan.seed)
        run = read_run(record) if record.exists() else None
        if run is not None and run.end is not None:
            self.progress.skip(plan, run)
        else:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                self._train(plan, record, checkpoint)
            self.progress.finish(plan, read_run(record))
        checkpoint.unlink(missing_ok=True)

    def _train(self, plan: Plan, record: Path, checkpoint: Path) -> None:
        """Start a run, or continue it where record and checkpoint are both there."""
        epochs = self.study.epochs
        problem = self.study.task.build(plan.seed)
        optimizer = plan.entry.optimizer(problem.model.parameters(), epochs * len(problem.train))
        torch.manual_seed(plan.seed)
        if record.exists() and checkpoint.exists():
            done = _continue(record, load_checkpoint(checkpoint, problem.model, optimizer))
        else:
            done = 0
            write_text(record, encode(header(self.study, plan, problem, optimizer, self.command)) + "\n")
        self.progress.start(plan, done)

        def on_step(steps: int) -> None:
            self.progress.step(steps)
            self.check_interrupt()

        def on_epoch(epoch: Epoch) -> None:
            length = append_line(record, epoch_lines(epoch))
            if epoch.diverged is None and epoch.number < epochs:
                save_checkpoint(checkpoint, problem.model, optimizer, {"epochs": epoch.number, "bytes": length})
            self.progress.epoch(plan, epoch)

        history = train(problem, optimizer, epochs, first=done, on_step=on_step, on_epoch=on_epoch)
        if history[-1].diverged is None:
            append_line(record, encode({"kind": "end", "status": "done", "steps": history[-1].steps}))


def _continue(record: Path, progress: dict[str, Any]) -> int:
    """Cut a record back to where its checkpoint was saved and note the continuation; return the epochs done."""
    if record.stat().st_size < progress["bytes"]:
        raise RunError(f"The record {record} is damaged: it ends before its checkpoint; delete it to repeat that run.")
    cut_back(record, progress["bytes"])
    append_line(record, encode({"kind": "resumed", "epochs": progress["epochs"], "versions": versions()}))
    return progress["epochs"]


def _kept(folder: Folder, plans: list[Plan], epochs: int, command: str | None) -> str:
    """What an interrupted study has on the disk, and how to go on."""
    runs = folder.runs()
    finished = sum(run.end is not None for run in runs)
    begun = [
        f"{run.entry} seed {run.seed} up to epoch {len(run.epochs)} of {epochs}" for run in runs if run.end is None
    ]
    also = f", and {begun[0]}" if begun else ""
    again = f"Continue with: {command}" if command else "Run the study again to continue."
    return f"Stopped. {folder.path} keeps {finished} of {len(plans)} runs{also}. {again}"
