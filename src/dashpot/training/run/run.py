"""One training run in a folder of its own: begun from settings, continued after anything, told as it goes."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch

from dashpot.errors import DashpotError, RunError
from dashpot.runs.environment import torch_threads
from dashpot.runs.files import write_error, write_text
from dashpot.runs.records import Run, encode
from dashpot.runs.signals import TERMINATION_SIGNALS, Interrupted, interruptible
from dashpot.training.callback import Callback
from dashpot.training.distributed.engine import Engine
from dashpot.training.distributed.process_group import SUPERVISOR
from dashpot.training.learner import Learner
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.result import RunResult, counted
from dashpot.training.run.resume import check_recorded_identity, check_task, latest_state, merge_settings
from dashpot.training.run.settings import Settings
from dashpot.utils.rng_state import random_state, set_random_state

if TYPE_CHECKING:
    from dashpot.training.callbacks.checkpoints import Checkpoints
    from dashpot.training.lr_finder import LRCurve

__all__ = ["RunPlan", "RunResult", "lr_range_test", "merge_settings", "resume", "start"]

Value = TypeVar("Value")


def start(
    settings: Settings, out: Path | None = None, *, command: str | None = None, say: Callable[[str], None] = print
) -> RunResult:
    """Train as `settings` say, in a new folder.

    Args:
        settings: of the run.
        out: the folder, which must not hold anything; None makes a numbered one under `runs/`.
        command: what the user typed, kept in the folder.
        say: told each line; the table of the epochs goes to the standard output.

    Raises:
        ArgumentError, DataError: settings that cannot be; nothing is written then.
        RunError: the folder is not free or not writable, or the device is not there.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP; everything up to the last step is kept.

    >>> import tempfile
    >>> lines = []
    >>> with tempfile.TemporaryDirectory() as place:
    ...     settings = Settings(task="digits", optimizer="adamw", epochs=1, threads=1, accelerator="cpu")
    ...     result = start(settings, Path(place, "run"), say=lines.append)
            train              eval
    epoch ...
    >>> result.status, len(result.run.loss)
    ('done', 30)
    """
    with _settled(settings):
        engine = _engine(settings)
        plan = RunPlan.of(dataclasses.replace(settings, devices=engine.world_size))
        folder = _first(engine, lambda: RunFolder.create(out, plan.settings, command=command))
        return _train(plan, folder, engine, None, command, say)


def resume(
    path: Path,
    given: Mapping[str, Any] | None = None,
    *,
    override: bool = False,
    command: str | None = None,
    say: Callable[[str], None] = print,
) -> RunResult:
    """Continue the run in a folder from its newest good checkpoint, to the same bits as without the interruption.

    Args:
        path: the folder.
        given: settings that the user gives besides.
        override: go on with those that differ, where the run can; otherwise a difference is refused.
        command, say: as for `start`.

    Returns:
        How it ended; a run that had ended is not touched.

    Raises:
        RunError: there is no run in the folder, it has other settings, its checkpoints are of another model, gone or
            all damaged, its record is gone, what its `run.toml` says was edited into another run, or another process is
            at work in it. Nothing was changed then, but that a damaged checkpoint is put aside.
        Interrupted: as for `start`.
    """
    folder = RunFolder.open(path)
    there, run = folder.settings(), folder.run()
    check_recorded_identity(there, run, folder)
    settings = merge_settings(there, given or {}, path, override=override)
    if run is not None and run.end is not None and settings == there:
        result = RunResult(folder, run)
        say(f"{path} {'is finished' if result.status == 'done' else 'has diverged'}; nothing is left to do.")
        say(result.text())
        return result
    with _settled(settings):
        engine = _engine(settings)
        if engine.world_size != settings.devices and not override:
            raise RunError(
                f"{path} is a run of {counted(settings.devices, 'process', 'es')}, not of {engine.world_size}; "
                "--override goes on."
            )
        plan = RunPlan.of(dataclasses.replace(settings, devices=engine.world_size))
        check_task(plan, run, path, override=override)
        changed = plan.settings != there
        return _train(plan, folder, engine, run, command, say, changed=changed, override=override)


def lr_range_test(settings: Settings) -> LRCurve:
    """The learning-rate curve of a method on a task, from `dashpot.training.lr_finder.find_lr`; nothing is written.

    Raises:
        ArgumentError, DataError: settings that cannot be.
        RunError: the device is not there.
    """
    from dashpot.training.callbacks.accumulate import Accumulate
    from dashpot.training.lr_finder import find_lr

    with _settled(settings):
        plan, engine = RunPlan.of(settings), _engine(settings)
        return find_lr(
            Learner.of(plan.problem, plan.optimizer, engine=engine, callbacks=[Accumulate(settings.accumulate)])
        )


# ---- the parts of a run ---------------------------------------------------------------------------------------------


def _train(
    plan: RunPlan,
    folder: RunFolder,
    engine: Engine,
    run: Run | None,
    command: str | None,
    say: Callable[[str], None],
    *,
    changed: bool = False,
    override: bool = False,
) -> RunResult:
    """Train in a folder from its newest checkpoint if it has one; `changed` settings are written once they hold."""
    settings = plan.settings
    tell = say if engine.is_rank_zero else lambda _: None
    with ExitStack() as stack:
        check = stack.enter_context(interruptible(_signals()))
        _first(engine, lambda: stack.enter_context(folder.lock()))  # which gives None
        state = latest_state(folder, run)
        kept = None
        if state is None:
            typed = command if changed else folder.command() or command  # the first of several processes has another
            kept = _first(engine, lambda: _start_record(plan, folder, run, typed))
        tell(plan.entry.call(plan.steps))
        tell(_where(folder, run, state, kept))
        learner = Learner.of(plan.problem, plan.optimizer, engine=engine)
        write = (lambda: _first(engine, lambda: folder.write(settings, command=command))) if changed else None
        checkpoints = _checkpoints(plan, folder)
        begun = _Begun(write, checkpoints.save if state is not None and override else None)
        callbacks = [*_callbacks(plan, folder, check, checkpoints), begun]
        try:
            learner.fit(settings.epochs or 1, callbacks=callbacks, resume=state, override=override)
        except Interrupted as stop:
            raise Interrupted(f"Stopped. Continue with: {folder.resume_command}", stop.code) from None
        except DashpotError as error:
            raise _for_the_command(error, folder.resume_command if begun.done else None) from error.__cause__
        except Exception:
            if engine.is_rank_zero and SUPERVISOR not in os.environ:  # which says it itself
                print(f"Go on with: {folder.resume_command}", file=sys.stderr)
            raise
    found = _first(engine, folder.run)
    assert found is not None
    result = RunResult(folder, found)
    tell(result.text())
    return result


class _Begun(Callback):
    """Does what has to wait until the fit has accepted the state it goes on from, and before anything else happens.

    Args:
        write: writes the run's new settings.
        save: writes a checkpoint under them, so that the run can be killed at once and goes on without `--override`.
    """

    order: ClassVar[int] = -1000  # nothing has been drawn yet: the checkpoint has the random state of the one before

    def __init__(self, write: Callable[[], object] | None, save: Callable[[Learner], object] | None) -> None:
        self.write, self.save, self.done = write, save, False

    def before_epoch(self, learner: Learner) -> None:
        if not self.done and self.write is not None:
            self.write()
        if not self.done and self.save is not None:
            self.save(learner)
        self.done = True

    def after_fit(self, learner: Learner) -> None:
        if not self.done and self.write is not None:  # no epoch was left
            self.write()
        self.done = True


def _for_the_command(error: DashpotError, again: str | None) -> DashpotError:
    """The same sentence with the option in place of the argument that it stands for, and how to go on after it."""
    text = str(error).replace("override=True", "--override")
    return type(error)(text if again is None else f"{text} Go on with: {again}")


def _signals() -> tuple[int, ...]:
    """What stops a run tidily. One of several processes is told by Ctrl-C alone: SIGTERM is to end it whatever it waits
    for, once another is lost."""
    return (signal.SIGINT,) if SUPERVISOR in os.environ else TERMINATION_SIGNALS


def _start_record(plan: RunPlan, folder: RunFolder, run: Run | None, command: str | None) -> str | None:
    """Write the record's header; what a start that was killed before its first checkpoint has logged is dropped.

    Returns:
        The name of the file that keeps the record there was, where that held an epoch.
    """
    kept = folder.back_up_record().name if run is not None and run.epochs else None
    for path in folder.logs.values():
        _drop(path)
    write_text(folder.record, encode(plan.metadata(command)) + "\n")
    return kept


def _drop(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _where(folder: RunFolder, run: Run | None, state: Mapping[str, Any] | None, kept: str | None) -> str:
    """What the run begins with; `kept` is the file that keeps an earlier record."""
    if state is not None:
        epoch, batch = state["progress"]["position"]
        within = f" and {counted(batch, 'batch', 'es')}" if batch else ""
        return f"Goes on in {folder.path} after {counted(epoch, 'epoch')}{within}."
    if run is None:
        return f"Kept in {folder.path}."
    earlier = f"; what it had is kept in {kept}" if kept else ""
    return f"Starts over in {folder.path}: there was no checkpoint yet{earlier}."


def _checkpoints(plan: RunPlan, folder: RunFolder) -> Checkpoints:
    """After every epoch, the last ones and the best."""
    from dashpot.training.callbacks.checkpoints import Checkpoints

    settings = plan.settings
    return Checkpoints(
        folder.checkpoints,
        every_steps=settings.checkpoint_every,
        keep=settings.keep,
        best=plan.score,
        config=settings.to_dict(),
    )


def _callbacks(plan: RunPlan, folder: RunFolder, check: Callable[[], None], checkpoints: Checkpoints) -> list[Callback]:
    """What the settings ask for, beside record, checkpoints, table and the tidy stop."""
    from dashpot.training.callbacks.graceful_stop import GracefulStop
    from dashpot.training.callbacks.progress import Progress
    from dashpot.training.callbacks.run_log import RunLog

    settings, (metric, mode) = plan.settings, plan.score
    phase = "train" if plan.problem.evaluation is None else "eval"
    skipping = settings.nonfinite == "skip" or settings.precision == "fp16"
    resumed = {"call": plan.entry.call(plan.steps), "task": dict(plan.task.config)}
    chosen: list[Callback] = [
        RunLog(folder.record, skipping=skipping, resumed=resumed),
        Progress(),
        checkpoints,
    ]
    if settings.accumulate > 1:
        from dashpot.training.callbacks.accumulate import Accumulate

        chosen.append(Accumulate(settings.accumulate))
    if settings.nonfinite == "stop":
        from dashpot.training.callbacks.nonfinite import NonFinite

        chosen.append(NonFinite(then="stop", folder=folder.path))
    if settings.ema is not None:
        from dashpot.training.callbacks.average import EMA

        chosen.append(EMA(settings.ema))
    if settings.patience is not None:
        from dashpot.training.callbacks.early_stopping import EarlyStopping

        chosen.append(EarlyStopping(metric, phase=phase, patience=settings.patience, mode=mode))
    chosen += [_log(name, folder.logs[name]) for name in settings.log]
    return [*chosen, GracefulStop(check, checkpoints.save)]


def _log(name: str, path: Path) -> Callback:
    """A log of every epoch in the run's folder, gone on with where it was off for a while."""
    from dashpot.training.callbacks import CSV, JSONLines, TensorBoard

    return {"csv": CSV, "jsonl": JSONLines, "tensorboard": TensorBoard}[name](path, append=True)


def _engine(settings: Settings) -> Engine:
    return Engine(settings.accelerator, settings.devices, settings.strategy, settings.precision)


@contextmanager
def _settled(settings: Settings) -> Iterator[None]:
    """Threads and random numbers of the run; afterwards they are as they were."""
    before = random_state()
    with torch_threads(settings.threads):
        torch.manual_seed(settings.seed)
        random.seed(settings.seed)
        np.random.seed(settings.seed)
        try:
            yield
        finally:
            set_random_state(before)


def _first(engine: Engine, action: Callable[[], Value]) -> Value:
    """What `action` gives on the first process, on all of them; where it fails, it fails for all."""
    if engine.world_size == 1:
        return action()
    found: tuple[Any, DashpotError | None] = (None, None)
    if engine.is_rank_zero:
        try:
            found = (action(), None)
        except DashpotError as error:
            found = (None, error)
    value, error = engine.all_gather(found)[0]
    if error is not None:
        raise error
    return value
