"""Execution of a study, which records each run, skips finished runs and resumes interrupted ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from dashpot.comparison.progress import SilentProgress, StudyProgress
from dashpot.comparison.study_folder import StudyFolder
from dashpot.errors import RunError
from dashpot.runs.environment import torch_threads, versions
from dashpot.runs.files import append_line, truncate, write_text
from dashpot.runs.metadata import run_metadata
from dashpot.runs.records import Run, epoch_lines, read_run
from dashpot.runs.signals import Interrupted, interruptible
from dashpot.runs.study import Study, StudyRun
from dashpot.training import Epoch, Learner
from dashpot.training.loop import EpochStats, single_device_learner
from dashpot.training.state import checkpoint_file
from dashpot.training.state.fit_schema import check_state
from dashpot.utils.rng_state import preserve_rng_state, seed_all
from dashpot.utils.schema import COUNT, Rule, extended
from dashpot.utils.strict_json import encode


def run_study(
    study: Study, out: Path, *, progress: StudyProgress | None = None, command: str | None = None
) -> list[Run]:
    """Train the runs of `study` that are missing from `out`, and return all records.

    An interrupted run resumes after its last finished epoch. On the same machine, with the same versions and number of
    threads, the results of a resumed run are bit-identical to those of an uninterrupted run. Each run seeds the global
    generators of torch, Python and numpy; their previous states are restored afterwards.

    Args:
        study: Study to run.
        out: Folder for `study.json` and the records, created if missing.
        progress: Progress report. Default: no report.
        command: Command line that repeats the study, stored in the records.

    Returns:
        The records of the study, ordered by method and then by seed.

    Raises:
        ArgumentError: If an optimizer rejects its settings; in this case, nothing is written.
        RunError: If the folder belongs to a different study or program, is locked, or cannot be written.
        Interrupted: If Ctrl-C was pressed. All finished epochs are kept.
    """
    progress = progress or SilentProgress()
    folder = StudyFolder(Path(out))
    settings = study.settings()
    folder.prepare(settings, command)
    runs = study.runs()
    with folder.locked(), torch_threads(study.threads), closing(progress), interruptible() as check_interrupt:
        progress.begin(len(runs), study.epochs * settings["steps_per_epoch"], study.epochs)
        runner = _StudyRunner(study, folder, progress, check_interrupt, command)
        try:
            for run in runs:
                check_interrupt()
                runner.run(run)
        except Interrupted:
            raise Interrupted(_interrupted_message(folder, len(runs), study.epochs, command)) from None
    return folder.runs()


@dataclass(frozen=True)
class _StudyRunner:
    """Runner for the runs of one `run_study` call."""

    study: Study
    folder: StudyFolder
    progress: StudyProgress
    check_interrupt: Callable[[], None]
    command: str | None

    def run(self, plan: StudyRun) -> None:
        """Train one run unless an earlier session has finished it."""
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
        """Start a run, or resume it if both record and checkpoint exist."""
        epochs = self.study.epochs
        problem = self.study.task.build(plan.seed)
        steps = len(problem.train)
        seed_all(plan.seed)
        state = _read_checkpoint(checkpoint) if record.exists() and checkpoint.exists() else None
        if state is None:
            optimizer = plan.entry.optimizer(problem.model.parameters(), epochs * steps)
            call = plan.entry.call(epochs * steps)
            header = run_metadata(self.study, plan, problem, optimizer, self.command, call=call, steps_per_epoch=steps)
            write_text(record, encode(header) + "\n")
        self.progress.start(plan, 0 if state is None else state["progress"]["position"][0])
        learner = single_device_learner(problem, partial(plan.entry.optimizer, steps=epochs * steps))

        def on_step(steps: int) -> None:
            self.progress.step(steps)
            self.check_interrupt()

        def on_epoch(epoch: Epoch) -> None:
            append_line(record, epoch_lines(epoch))
            if epoch.diverged is None and epoch.number < epochs:
                checkpoint_file.write(checkpoint, learner.state_dict())
            self.progress.epoch(plan, epoch)

        recorder = _RecordedEpochs(record, on_step, on_epoch)
        learner.fit(epochs, callbacks=[recorder], resume=state)
        if recorder.epochs[-1].diverged is None:
            append_line(record, encode({"kind": "end", "status": "done", "steps": recorder.epochs[-1].steps}))


class _RecordedEpochs(EpochStats):
    """`EpochStats` whose state includes the length of the record, so that a resume can truncate the record."""

    state_name: ClassVar[str | None] = "_Recorded"  # the key in existing checkpoints
    state_schema: ClassVar[Rule] = extended(EpochStats.state_schema, {"bytes": COUNT})

    def __init__(self, record: Path, on_step: Callable[[int], None], on_epoch: Callable[[Epoch], None]) -> None:
        super().__init__(on_step, on_epoch)
        self.record = record
        self._resume_length: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "bytes": self.record.stat().st_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the measurements; the record is truncated once the fit has accepted the state."""
        super().load_state_dict(state)
        if self.record.stat().st_size < state["bytes"]:
            raise RunError(
                f"The record {self.record} is damaged: it is shorter than when the checkpoint was written. "
                "Delete it to repeat the run."
            )
        self._resume_length = state["bytes"]

    def before_epoch(self, learner: Learner) -> None:
        """In a resumed fit, truncate the record to its length at the checkpoint and append a `resumed` line."""
        if self._resume_length is not None:
            truncate(self.record, self._resume_length)
            done = learner.loop.position[0]
            append_line(self.record, encode({"kind": "resumed", "epochs": done, "versions": versions()}))
            self._resume_length = None
        super().before_epoch(learner)


def _read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    try:
        state = checkpoint_file.read(checkpoint)
        check_state(state)
    except RunError as error:
        raise RunError(f"{error} Delete it to restart the run.") from error
    return state


def _interrupted_message(folder: StudyFolder, total: int, epochs: int, command: str | None) -> str:
    """Return a message that describes the saved runs and how to resume."""
    runs = folder.runs()
    finished = sum(run.end is not None for run in runs)
    started = next((run for run in runs if run.end is None), None)
    saved = f"Stopped. {folder.path} has {finished} of {total} runs"
    if started is not None:
        saved += f" and {started.entry} seed {started.seed} up to epoch {len(started.epochs)} of {epochs}"
    return f"{saved}. " + (f"Resume with: {command}" if command else "Run the study again to resume.")
