"""Doing a study: each run recorded as it goes, finished ones skipped, interrupted ones continued."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dashpot.comparison.progress import SilentProgress, StudyProgress
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import RunError
from dashpot.runs.environment import torch_threads, versions
from dashpot.runs.files import append_line, truncate, write_text
from dashpot.runs.metadata import run_metadata
from dashpot.runs.records import Run, encode, epoch_lines, read_run
from dashpot.runs.signals import Interrupted, interruptible
from dashpot.runs.study import Study, StudyRun
from dashpot.training import Epoch, Learner
from dashpot.training.loop import Epochs, learner_in_place
from dashpot.training.state import checkpoint_file
from dashpot.utils.rng_state import preserve_rng_state, seed_all

__all__ = ["run_study"]


def run_study(
    study: Study, out: Path, *, progress: StudyProgress | None = None, command: str | None = None
) -> list[Run]:
    """Train every run of `study` that `out` does not hold yet, and return all records.

    An interrupted run goes on from its last finished epoch and ends with the numbers it would have had without the
    interruption, on the same machine, versions and number of threads. Every run starts from its seed in the global
    generators of torch, Python and numpy, which are afterwards as they were.

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
    progress = progress or SilentProgress()
    folder = StudyFolder(Path(out))
    settings = study.settings()
    folder.prepare(settings, command)
    plans = study.runs()
    with folder.locked(), torch_threads(study.threads), progress, interruptible() as check_interrupt:
        progress.begin(len(plans), study.epochs * settings["steps_per_epoch"], study.epochs)
        runner = _StudyRunner(study, folder, progress, check_interrupt, command)
        try:
            for plan in plans:
                check_interrupt()
                runner.run(plan)
        except Interrupted:
            raise Interrupted(_interrupted_message(folder, plans, study.epochs, command)) from None
    return folder.runs()


@dataclass(frozen=True)
class _StudyRunner:
    """One call of `run_study`, run by run."""

    study: Study
    folder: StudyFolder
    progress: StudyProgress
    check_interrupt: Callable[[], None]
    command: str | None

    def run(self, plan: StudyRun) -> None:
        """Do one run, unless an earlier session finished it."""
        record = self.folder.record(plan.entry.name, plan.seed)
        checkpoint = self.folder.checkpoint(plan.entry.name, plan.seed)
        run = read_run(record) if record.exists() else None
        if run is not None and run.end is not None:
            self.progress.skip(plan, run)
        else:
            with preserve_rng_state():
                self._train(plan, record, checkpoint)
            self.progress.finish(plan, read_run(record))
        checkpoint.unlink(missing_ok=True)

    def _train(self, plan: StudyRun, record: Path, checkpoint: Path) -> None:
        """Start a run, or continue it where record and checkpoint are both there."""
        epochs = self.study.epochs
        problem = self.study.task.build(plan.seed)
        optimizer = plan.entry.optimizer(problem.model.parameters(), epochs * len(problem.train))
        seed_all(plan.seed)
        state = _read_checkpoint(checkpoint) if record.exists() and checkpoint.exists() else None
        if state is None:
            write_text(record, encode(run_metadata(self.study, plan, problem, optimizer, self.command)) + "\n")
        self.progress.start(plan, 0 if state is None else state["progress"]["position"][0])
        learner = learner_in_place(problem, optimizer)

        def on_step(steps: int) -> None:
            self.progress.step(steps)
            self.check_interrupt()

        def on_epoch(epoch: Epoch) -> None:
            append_line(record, epoch_lines(epoch))
            if epoch.diverged is None and epoch.number < epochs:
                checkpoint_file.write(checkpoint, learner.state_dict())
            self.progress.epoch(plan, epoch)

        told = _RecordedEpochs(record, on_step, on_epoch)
        learner.fit(epochs, callbacks=[told], resume=state)
        if told.epochs[-1].diverged is None:
            append_line(record, encode({"kind": "end", "status": "done", "steps": told.epochs[-1].steps}))


class _RecordedEpochs(Epochs):
    """Epochs that are written to a record, whose length is a part of the run's state."""

    state_name: ClassVar[str] = "_Recorded"  # the key in existing checkpoints

    def __init__(self, record: Path, on_step: Callable[[int], None], on_epoch: Callable[[Epoch], None]) -> None:
        super().__init__(on_step, on_epoch)
        self.record = record

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "bytes": self.record.stat().st_size}

    def before_fit(self, learner: Learner) -> None:
        super().before_fit(learner)
        self._learner = learner

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut the record back to where the state was taken, and note the continuation."""
        super().load_state_dict(state)
        if self.record.stat().st_size < state["bytes"]:
            raise RunError(
                f"The record {self.record} is damaged: it ends before its checkpoint; delete it to repeat that run."
            )
        truncate(self.record, state["bytes"])
        done = self._learner.loop.position[0]
        append_line(self.record, encode({"kind": "resumed", "epochs": done, "versions": versions()}))


def _read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The state to go on from."""
    try:
        return checkpoint_file.read(checkpoint)
    except RunError as error:
        raise RunError(f"{error} Delete it to start that run over.") from error


def _interrupted_message(folder: StudyFolder, plans: list[StudyRun], epochs: int, command: str | None) -> str:
    """What an interrupted study has on the disk, and how to go on."""
    runs = folder.runs()
    finished = sum(run.end is not None for run in runs)
    begun = [
        f"{run.entry} seed {run.seed} up to epoch {len(run.epochs)} of {epochs}" for run in runs if run.end is None
    ]
    also = f", and {begun[0]}" if begun else ""
    again = f"Continue with: {command}" if command else "Run the study again to continue."
    return f"Stopped. {folder.path} keeps {finished} of {len(plans)} runs{also}. {again}"
