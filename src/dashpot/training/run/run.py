"""Starting and resuming training runs in their folders."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from dashpot.errors import DashpotError, RunError
from dashpot.runs.environment import torch_threads
from dashpot.runs.files import write_error, write_text
from dashpot.runs.lock import locked
from dashpot.runs.records import Run
from dashpot.runs.settings import Settings
from dashpot.runs.signals import SAVE_SIGNAL, TERMINATION_SIGNALS, Interrupted, interruptible, recorded_signal
from dashpot.training.callback import Callback
from dashpot.training.callbacks import (
    EMA,
    Accumulate,
    Checkpoints,
    EarlyStopping,
    Freeze,
    NonFinite,
    Progress,
    SaveOnSignal,
    Watch,
)
from dashpot.training.callbacks.graceful_stop import GracefulStop
from dashpot.training.callbacks.run_log import RunLog
from dashpot.training.distributed.engine import Engine
from dashpot.training.distributed.process_group import SUPERVISOR
from dashpot.training.learner import Learner
from dashpot.training.lr_finder import LRCurve, find_lr
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.loggers import make_logger
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.result import RunResult
from dashpot.training.run.resume import (
    check_optimizer_file,
    check_recorded_identity,
    check_task,
    latest_state,
    merge_settings,
)
from dashpot.training.run.smoke import smoke_test as run_smoke_test
from dashpot.utils.format import counted
from dashpot.utils.rng_state import random_state, set_random_state
from dashpot.utils.strict_json import encode

Value = TypeVar("Value")


def start(
    settings: Settings,
    out: Path | None = None,
    *,
    smoke: bool = False,
    plot: bool = False,
    command: str | None = None,
    write_line: Callable[[str], None] = print,
) -> RunResult:
    """Train with `settings` in a new folder.

    Args:
        settings: Settings of the run.
        out: Path of the folder, which must be missing or empty; None creates a numbered folder under `runs/`.
        smoke: Whether to run a smoke test before the folder is created; see `smoke_test`.
        plot: Whether to draw the loss while the run trains.
        command: Command line that starts the run, stored in the folder.
        write_line: Function that outputs a line; the table of epochs is always printed to stdout.

    Returns:
        The folder and the record of the run.

    Raises:
        ArgumentError, DataError: If the settings are invalid; in this case, nothing is written.
        RunError: If the folder is not empty or not writable, or if the device is not available.
        Interrupted: If SIGINT, SIGTERM or SIGHUP is received. A checkpoint of the last step is written first.

    >>> import tempfile
    >>> lines = []
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     settings = Settings(task="digits", optimizer="adamw", epochs=1, threads=1, accelerator="cpu")
    ...     result = start(settings, Path(directory, "run"), write_line=lines.append)
            train              eval
    epoch ...
    >>> result.status, len(result.run.loss)
    ('done', 24)
    """
    with _seeded(settings):
        engine = _engine(settings)
        plan = RunPlan.of(dataclasses.replace(settings, devices=engine.world_size))
        if smoke:
            _smoke_test(plan, engine, write_line)
        folder = _on_rank_zero(engine, lambda: RunFolder.create(out, plan.settings, command=command))
        return _train(plan, folder, engine, None, command, write_line, plot=plot)


def resume(
    path: Path,
    given: Mapping[str, Any] | None = None,
    *,
    override: bool = False,
    plot: bool = False,
    command: str | None = None,
    write_line: Callable[[str], None] = print,
) -> RunResult:
    """Resume the run in a folder from its latest undamaged checkpoint, bit for bit.

    Args:
        path: Folder of the run.
        given: Settings given on the command line.
        override: Whether to accept given settings that differ from the saved settings, instead of raising an error.
        plot: Whether to draw the loss while the run trains.
        command: Command line of this call, as for `start`.
        write_line: Function that outputs a line, as for `start`.

    Returns:
        The folder and the record of the run; a run that has ended is left unchanged.

    Raises:
        RunError: If the folder does not contain a run, the given settings are rejected, the checkpoints do not match
            the model, are missing or are all damaged, the record is missing, `run.toml` was edited to a different task,
            method or seed, or another process has locked the folder. In these cases, nothing is changed, except that a
            damaged checkpoint is renamed.
        Interrupted: If a signal is received, as for `start`.
    """
    folder = RunFolder.open(path)
    saved, run = folder.settings(), folder.run()
    check_recorded_identity(saved, run, folder)
    settings = merge_settings(saved, given or {}, path, override=override)
    if run is not None and run.end is not None and settings == saved:
        result = RunResult(folder, run)
        write_line(f"{path} {'is complete' if result.status == 'done' else 'has diverged'}; nothing to resume.")
        write_line(result.text())
        return result
    with _seeded(settings):
        engine = _engine(settings)
        if engine.world_size != settings.devices and not override:
            raise RunError(
                f"{path} was started with {counted(settings.devices, 'process', 'es')}, not {engine.world_size}; "
                "resume with --override to change the number."
            )
        plan = RunPlan.of(dataclasses.replace(settings, devices=engine.world_size))
        check_task(plan, run, path, override=override)
        check_optimizer_file(plan, run, path, override=override)
        changed = plan.settings != saved
        return _train(plan, folder, engine, run, command, write_line, changed=changed, override=override, plot=plot)


def smoke_test(settings: Settings, *, write_line: Callable[[str], None] = print) -> None:
    """Run two optimizer steps, two evaluation batches, a checkpoint and a resume in a temporary folder.

    Raises:
        ArgumentError, DataError: If the settings are invalid.
        RunError: If the fit diverges, or the device is not available.
    """
    with _seeded(settings):
        engine = _engine(settings)
        _smoke_test(RunPlan.of(dataclasses.replace(settings, devices=engine.world_size)), engine, write_line)


def lr_range_test(settings: Settings) -> LRCurve:
    """Run `dashpot.training.lr_finder.find_lr` with the task and method of `settings`; no files are written.

    Raises:
        ArgumentError, DataError: If the settings are invalid.
        RunError: If the device is not available.
    """
    with _seeded(settings):
        plan, engine = RunPlan.of(settings), _engine(settings)
        learner = Learner.of(plan.problem, plan.optimizer, engine=engine)
        return find_lr(learner, callbacks=[Accumulate(settings.accumulate), *plan.callbacks])


# ---- parts of a run -------------------------------------------------------------------------------------------------


def _smoke_test(plan: RunPlan, engine: Engine, write_line: Callable[[str], None]) -> None:
    def train(fresh: RunPlan, folder: RunFolder, own: Engine, run: Run | None, extra: list[Callback]) -> RunResult:
        return _train(fresh, folder, own, run, None, lambda _: None, extra=extra)

    line = run_smoke_test(plan, engine, train)
    if engine.is_rank_zero:
        write_line(line)


def _train(
    plan: RunPlan,
    folder: RunFolder,
    engine: Engine,
    run: Run | None,
    command: str | None,
    write_line: Callable[[str], None],
    *,
    changed: bool = False,
    override: bool = False,
    plot: bool = False,
    extra: Sequence[Callback] = (),
) -> RunResult:
    """Train in a folder, starting from its latest checkpoint if there is one.

    If `changed` is True, the settings are written once the fit has accepted them. `extra` are the callbacks of a smoke
    test, whose folder is temporary, so that messages do not contain the command for resuming.
    """
    settings = plan.settings
    output = write_line if engine.is_rank_zero else lambda _: None
    with ExitStack() as stack:
        check = stack.enter_context(interruptible(_stop_signals()))
        stack.enter_context(recorded_signal(SAVE_SIGNAL))  # before the fit, there is nothing to save
        _on_rank_zero(engine, lambda: stack.enter_context(locked(folder.path)))
        _on_rank_zero(engine, folder.remove_partial_files)
        state = latest_state(folder, run)
        backup = None
        if state is None:
            typed = command if changed else folder.command() or command  # the command lines of ranks above 0 differ
            backup = _on_rank_zero(engine, lambda: _start_record(plan, folder, run, typed))
        output(plan.call)
        output(_first_line(folder, run, state, backup))
        learner = Learner.of(plan.problem, plan.optimizer, engine=engine)
        write = (lambda: _on_rank_zero(engine, lambda: folder.write(settings, command=command))) if changed else None
        checkpoints = _checkpoints(plan, folder)
        accepted = _OnAccepted(write, checkpoints.save if state is not None and override else None)
        own = _callbacks(plan, folder, check, checkpoints, snapshots=None if extra else folder.path)
        callbacks = [*extra, *own, Progress(plot=plot), accepted]
        with _with_resume_command(folder, engine, accepted, messages=not extra):
            learner.fit(
                settings.epochs,
                steps=settings.steps,
                max_time=settings.max_time,
                evaluate_every=settings.evaluate_every,
                callbacks=callbacks,
                resume=state,
                override=override,
            )
    recorded = _on_rank_zero(engine, folder.run)
    assert recorded is not None
    result = RunResult(folder, recorded)
    output(result.text())
    return result


@contextmanager
def _with_resume_command(folder: RunFolder, engine: Engine, accepted: _OnAccepted, *, messages: bool) -> Iterator[None]:
    """Add the command for resuming to an interruption and, if `messages` is True, to the errors of the fit."""
    command = folder.resume_command if messages else None
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(f"Stopped. Resume with: {folder.resume_command}", stop.code) from None
    except DashpotError as error:
        raise _command_error(error, command if accepted.done else None) from error.__cause__
    except Exception:
        # A launcher prints this line itself.
        if engine.is_rank_zero and command is not None and SUPERVISOR not in os.environ:
            print(f"Resume with: {command}", file=sys.stderr)
        raise


class _OnAccepted(Callback):
    """Run actions once the fit has accepted the state to resume, before its first batch.

    Args:
        write: Function that writes the changed settings, or None.
        save: Function that writes a checkpoint with the changed settings, from which the run can be resumed without
            `--override`, or None.
    """

    order: ClassVar[int] = -1000  # the lowest order, so that no callback changes the random state before the checkpoint

    def __init__(self, write: Callable[[], object] | None, save: Callable[[Learner], object] | None) -> None:
        self.write, self.save, self.done = write, save, False

    def before_epoch(self, learner: Learner) -> None:
        if not self.done and self.write is not None:
            self.write()
        if not self.done and self.save is not None:
            self.save(learner)
        self.done = True

    def after_fit(self, learner: Learner) -> None:
        if not self.done and self.write is not None:  # the fit had no epoch left
            self.write()
        self.done = True


def _command_error(error: DashpotError, resume_command: str | None) -> DashpotError:
    """Return the error with command-line options in place of argument names, and with the command for resuming."""
    text = str(error).replace("override=True", "--override").replace("steps=N", "--steps N")
    return type(error)(text if resume_command is None else f"{text} Resume with: {resume_command}")


def _stop_signals() -> tuple[int, ...]:
    """Return the signals that stop the run after a checkpoint; under a launcher, SIGTERM ends hanging ranks instead."""
    return (signal.SIGINT,) if SUPERVISOR in os.environ else TERMINATION_SIGNALS


def _start_record(plan: RunPlan, folder: RunFolder, run: Run | None, command: str | None) -> str | None:
    """Write the first line of the record and remove logs of a run that was killed before its first checkpoint.

    Returns:
        Name of the backup of an earlier record with at least one epoch, or None.
    """
    backup = folder.back_up_record().name if run is not None and run.epochs else None
    for path in (*folder.logs.values(), folder.watch_file):
        _remove(path)
    write_text(folder.record, encode(plan.metadata(command)) + "\n")
    return backup


def _remove(path: Path) -> None:
    """Remove a file or a folder with its content."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _first_line(folder: RunFolder, run: Run | None, state: Mapping[str, Any] | None, backup: str | None) -> str:
    """Return a line with the folder and the starting point of the run; `backup` is the copy of an earlier record."""
    if state is not None:
        epoch, batch = state["progress"]["position"]
        if "interval" in state["progress"]:
            return f"Resuming {folder.path} after {counted(state['progress']['steps'], 'step')}."
        batches = f" and {counted(batch, 'batch', 'es')}" if batch else ""
        return f"Resuming {folder.path} after {counted(epoch, 'epoch')}{batches}."
    if run is None:
        return f"Writing to {folder.path}."
    copied = f" The earlier record was copied to {backup}." if backup else ""
    return f"Restarting {folder.path}, which has no checkpoint yet.{copied}"


def _checkpoints(plan: RunPlan, folder: RunFolder) -> Checkpoints:
    """Return the callback that saves a checkpoint after every epoch and keeps the latest and the best checkpoints."""
    settings = plan.settings
    return Checkpoints(
        folder.checkpoints,
        every_steps=settings.checkpoint_every,
        keep=settings.keep,
        best=plan.score,
        config=settings.to_dict(),
    )


def _callbacks(
    plan: RunPlan,
    folder: RunFolder,
    check: Callable[[], None],
    checkpoints: Checkpoints,
    snapshots: Path | None,
) -> list[Callback]:
    """Return the callbacks of a run: record, checkpoints, graceful stop, and those enabled in the settings.

    `snapshots` is the folder for the state at non-finite gradients.
    """
    settings, (metric, mode) = plan.settings, plan.score
    phase = "train" if plan.problem.evaluation is None else "eval"
    skipping = settings.nonfinite == "skip" or settings.precision == "fp16"
    resumed = {"call": plan.call, "task": dict(plan.task.config)}
    callbacks: list[Callback] = [RunLog(folder.record, skipping=skipping, resumed=resumed), checkpoints]
    if settings.accumulate > 1:
        callbacks.append(Accumulate(settings.accumulate))
    if settings.nonfinite == "stop":
        callbacks.append(NonFinite(then="stop", folder=snapshots))
    callbacks += [
        Freeze(pattern, until_epoch=epochs, batchnorm=settings.frozen_batchnorm)
        for pattern, epochs in settings.frozen()
    ]
    if settings.ema is not None:
        callbacks.append(EMA(settings.ema))
    if settings.patience is not None:
        callbacks.append(EarlyStopping(metric, phase=phase, patience=settings.patience, mode=mode))
    if settings.watch:
        callbacks.append(Watch(settings.watch_budget, folder.watch_file))
    callbacks += [make_logger(name, folder, settings) for name in settings.log]
    if SAVE_SIGNAL is not None:
        callbacks.append(SaveOnSignal(checkpoints, SAVE_SIGNAL))
    return [*callbacks, *plan.callbacks, GracefulStop(check, checkpoints.save)]


def _engine(settings: Settings) -> Engine:
    return Engine(
        settings.accelerator,
        settings.devices,
        settings.strategy,
        settings.precision,
        find_unused_parameters=settings.find_unused_parameters,
    )


@contextmanager
def _seeded(settings: Settings) -> Iterator[None]:
    """Set the number of threads and seed the global generators; restore them afterwards."""
    before = random_state()
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)
        np.random.seed(settings.seed)
        try:
            yield
        finally:
            set_random_state(before)


def _on_rank_zero(engine: Engine, action: Callable[[], Value]) -> Value:
    """Run `action` on rank 0 and return its result, or raise its error, on every rank."""
    outcome: tuple[Any, DashpotError | None] = (None, None)
    if engine.is_rank_zero:
        try:
            outcome = (action(), None)
        except DashpotError as error:
            outcome = (None, error)
    value, error = engine.broadcast(outcome)
    if error is not None:
        raise error
    return value
