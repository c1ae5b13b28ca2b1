"""Doing a study: each run recorded as it goes, finished ones skipped, interrupted ones continued."""

from __future__ import annotations

import datetime
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dashpot.comparison.environment import machine, versions
from dashpot.comparison.folder import Folder
from dashpot.comparison.interrupt import Interrupted, interruptible
from dashpot.comparison.progress import Progress, Silent
from dashpot.comparison.records import FORMAT, Run, encode, epoch_lines, read_run
from dashpot.comparison.study import Plan, Study, describe
from dashpot.errors import RunError
from dashpot.tasks import Problem
from dashpot.training import Epoch, load_checkpoint, save_checkpoint, train
from dashpot.training.files import append_line, write_text

__all__ = ["run_study"]


def run_study(study: Study, out: Path, *, progress: Progress | None = None, command: str | None = None) -> list[Run]:
    """Train every run of `study` that `out` does not hold yet, and return all records.

    A run continues from its last finished epoch and ends with the numbers it would have had without the interruption.

    Args:
        study: what to compare.
        out: folder for `study.json` and the records; made where it is missing.
        progress: told what happens; silent by default.
        command: the command that repeats the study, kept in the records.

    Raises:
        RunError: the folder is of another study or of another program, in use, or not writable.
        Interrupted: Ctrl-C; everything up to each run's last finished epoch is kept.
    """
    progress = progress or Silent()
    folder = Folder(Path(out))
    settings = study.settings()
    folder.claim(settings, command)
    total = study.epochs * settings["steps_per_epoch"]
    plans = study.plans()
    with folder.locked(), _threads(study.threads), progress, interruptible() as check_interrupt:
        progress.begin(len(plans), total, study.epochs)
        try:
            for plan in plans:
                _Runner(study, folder, settings, command, progress, check_interrupt).do(plan)
        except Interrupted:
            raise Interrupted(_kept(folder, plans, study.epochs)) from None
    return folder.runs()


class _Runner:
    """Does one run of a study; holds what all its parts need."""

    def __init__(
        self,
        study: Study,
        folder: Folder,
        settings: dict[str, Any],
        command: str | None,
        progress: Progress,
        check_interrupt: Callable[[], None],
    ) -> None:
        self.study, self.folder, self.settings, self.command = study, folder, settings, command
        self.progress, self.check_interrupt = progress, check_interrupt

    def do(self, plan: Plan) -> None:
        """Skip, continue or start `plan`."""
        self.check_interrupt()
        record = self.folder.record(plan.entry.name, plan.seed)
        checkpoint = self.folder.checkpoint(plan.entry.name, plan.seed)
        if record.exists() and read_run(record).end is not None:
            checkpoint.unlink(missing_ok=True)
            self.progress.skip(plan, read_run(record))
            return
        problem = self.study.task.build(plan.seed)
        total = self.study.epochs * len(problem.train)
        optimizer = plan.entry.optimizer(problem.model.parameters(), total)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(plan.seed)
            done = 0
            if record.exists() and checkpoint.exists():
                done = self._resume(record, load_checkpoint(checkpoint, problem.model, optimizer))
            else:
                write_text(record, encode(self._header(plan, problem, optimizer)) + "\n")
            self.progress.start(plan, done)

            def on_epoch(epoch: Epoch) -> None:
                length = append_line(record, epoch_lines(epoch))
                if epoch.diverged is None and epoch.number < self.study.epochs:
                    save_checkpoint(checkpoint, problem.model, optimizer, {"epochs": epoch.number, "bytes": length})
                self.progress.epoch(plan, epoch)

            def on_step(steps: int) -> None:
                self.progress.step(steps)
                self.check_interrupt()

            history = train(problem, optimizer, self.study.epochs, first=done, on_step=on_step, on_epoch=on_epoch)
        if history[-1].diverged is None:
            append_line(record, encode({"kind": "end", "status": "done", "steps": history[-1].steps}))
        checkpoint.unlink(missing_ok=True)
        self.progress.finish(plan, read_run(record))

    def _resume(self, record: Path, progress: dict[str, Any]) -> int:
        """Cut the record back to its checkpoint and note the continuation; return the epochs done."""
        if record.stat().st_size < progress["bytes"]:
            raise RunError(f"The record {record} is damaged: it ends before its checkpoint.")
        os.truncate(record, progress["bytes"])
        append_line(record, encode({"kind": "resumed", "epochs": progress["epochs"], "versions": versions()}))
        return progress["epochs"]

    def _header(self, plan: Plan, problem: Problem, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        total = self.study.epochs * len(problem.train)
        return {
            "kind": "header",
            "format": FORMAT,
            "entry": plan.entry.name,
            "seed": plan.seed,
            "lr": plan.entry.lr,
            "call": plan.entry.call(total),
            **describe(optimizer),
            "task": {
                "name": self.study.task.name,
                "description": self.study.task.description,
                "config": self.settings["config"],
                "parameters": sum(p.numel() for p in problem.model.parameters()),
                "init": fingerprint(problem.model),
            },
            "score": self.settings["score"],
            "epochs": self.study.epochs,
            "steps_per_epoch": len(problem.train),
            "versions": versions(),
            "machine": machine(),
            "command": self.command,
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }


def fingerprint(model: nn.Module) -> str:
    """A short hash of every parameter and buffer: equal for equal starting points."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _kept(folder: Folder, plans: list[Plan], epochs: int) -> str:
    runs = folder.runs()
    finished = sum(run.end is not None for run in runs)
    begun = [f"{run.entry} seed {run.seed} up to epoch {len(run.epochs)} of {epochs}" for run in runs if run.end is None]
    also = f", and {begun[0]}" if begun else ""
    return f"Stopped. {folder.path} keeps {finished} of {len(plans)} runs{also}."


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
