"""One training run in a folder of its own: begun from settings, continued after anything, told as it goes."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch

from dashpot.comparison.environment import torch_threads, versions
from dashpot.comparison.folder import differences as task_differences
from dashpot.comparison.interrupt import ENDING, Interrupted, interruptible
from dashpot.comparison.records import Run, encode
from dashpot.errors import DashpotError, RunError
from dashpot.training.callback import Callback
from dashpot.training.engine import Engine
from dashpot.training.files import write_text
from dashpot.training.folder import RunFolder
from dashpot.training.learner import Learner
from dashpot.training.outcome import Outcome
from dashpot.training.plan import Plan
from dashpot.training.processes import SUPERVISOR
from dashpot.training.random_state import random_state, set_random_state
from dashpot.training.settings import Settings, differences

if TYPE_CHECKING:
    from dashpot.training.callbacks.checkpoints import Checkpoints
    from dashpot.training.lr_finder import LRCurve

__all__ = ["Outcome", "Plan", "begin", "find_rate", "go_on", "merged", "resume_command"]

Value = TypeVar("Value")

FIXED = ("task", "optimizer", "seed")
"""What a run that has begun cannot change."""
LOGS = {"csv": "log.csv", "jsonl": "log.jsonl", "tensorboard": "tensorboard"}
"""Where each log is in a run's folder."""
SHOWN = 6


def begin(
    settings: Settings, out: Path | None = None, *, command: str | None = None, say: Callable[[str], None] = print
) -> Outcome:
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
    ...     outcome = begin(settings, Path(place, "run"), say=lines.append)
            train              eval
    epoch ...
    >>> outcome.status, len(outcome.run.loss)
    ('done', 30)
    """
    with _settled(settings):
        engine = _engine(settings)
        plan = Plan.of(dataclasses.replace(settings, devices=engine.world))
        folder = _first(engine, lambda: RunFolder.new(out, plan.settings, command=command))
        return _train(plan, folder, engine, None, command, say)


def go_on(
    path: Path,
    given: Mapping[str, Any] | None = None,
    *,
    override: bool = False,
    command: str | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Continue the run in a folder from its newest good checkpoint, to the same bits as without the interruption.

    Args:
        path: the folder.
        given: settings that the user gives besides.
        override: go on with those that differ, where the run can; otherwise a difference is refused.
        command, say: as for `begin`.

    Returns:
        How it ended; a run that had ended is not touched.

    Raises:
        RunError: there is no run in the folder, it has other settings, its checkpoints are of another model or all
            damaged, its record is gone, or another process is at work in it. Nothing was changed then, but that a
            damaged checkpoint is put aside.
        Interrupted: as for `begin`.
    """
    folder = RunFolder.existing(path)
    there = folder.settings()
    settings = merged(there, given or {}, path, override=override)
    run = folder.run()
    if run is not None and run.end is not None and settings == there:
        outcome = Outcome(folder, run)
        say(f"{path} {'is finished' if outcome.status == 'done' else 'has diverged'}; nothing is left to do.")
        say(outcome.text())
        return outcome
    with _settled(settings):
        engine = _engine(settings)
        if engine.world != settings.devices and not override:
            raise RunError(
                f"{path} is a run of {settings.devices} processes, not of {engine.world}; --override goes on."
            )
        plan = Plan.of(dataclasses.replace(settings, devices=engine.world))
        _check_task(plan, run, path, override=override)
        changed = plan.settings != there
        return _train(plan, folder, engine, run, command, say, changed=changed, override=override)


def merged(there: Settings, given: Mapping[str, Any], path: Path, *, override: bool) -> Settings:
    """The settings of the run in `path` with those given in their place.

    Raises:
        RunError: some differ and are not to be overridden, or cannot be.
    """
    found = differences(there, given)
    if not found:
        return there
    if not override:
        raise RunError(
            f"{path} is a run with other settings: {_listed(found)}. Nothing was changed; --override goes on with the "
            "new ones."
        )
    fixed = [name for name in FIXED if name in given and given[name] != getattr(there, name)]
    if fixed:
        raise RunError(f"{path} has begun, and cannot change its {', '.join(fixed)}; start a new run with that.")
    return dataclasses.replace(there, **{**given, "set": {**there.set, **given.get("set", {})}})


def find_rate(settings: Settings) -> LRCurve:
    """The learning-rate curve of a method on a task, from `dashpot.training.lr_finder.find_lr`; nothing is written.

    Raises:
        ArgumentError, DataError: settings that cannot be.
        RunError: the device is not there.
    """
    from dashpot.training.callbacks.accumulate import Accumulate
    from dashpot.training.lr_finder import find_lr

    with _settled(settings):
        plan, engine = Plan.of(settings), _engine(settings)
        return find_lr(
            Learner.of(plan.problem, plan.optimizer, engine=engine, callbacks=[Accumulate(settings.accumulate)])
        )


# ---- the parts of a run ---------------------------------------------------------------------------------------------


def _train(
    plan: Plan,
    folder: RunFolder,
    engine: Engine,
    run: Run | None,
    command: str | None,
    say: Callable[[str], None],
    *,
    changed: bool = False,
    override: bool = False,
) -> Outcome:
    """Train in a folder from its newest checkpoint if it has one; `changed` settings are written once they hold."""
    settings = plan.settings
    tell = say if engine.first else lambda _: None
    with ExitStack() as stack:
        check = stack.enter_context(interruptible(_signals()))
        _first(engine, lambda: stack.enter_context(folder.lock()))  # which gives None
        state = _newest_state(folder, run)
        if state is None:
            _first(engine, lambda: _start_record(plan, folder, command))
        tell(plan.entry.call(plan.steps))
        tell(_where(folder, run, state))
        learner = Learner.of(plan.problem, plan.optimizer, engine=engine)
        write = (lambda: _first(engine, lambda: folder.write(settings, command=command))) if changed else None
        checkpoints = _checkpoints(plan, folder)
        begun = _Begun(write, checkpoints.save if state is not None and override else None)
        callbacks = [*_callbacks(plan, folder, check, checkpoints), begun]
        try:
            learner.fit(settings.epochs or 1, callbacks=callbacks, resume=state, override=override)
        except Interrupted as stop:
            text = f"Stopped. Continue with: {resume_command(folder.path)}"
            raise Interrupted(text, stop.code) from None
        except DashpotError as error:
            raise _for_the_command(error, resume_command(folder.path) if begun.done else None) from error.__cause__
        except Exception:
            if engine.first and SUPERVISOR not in os.environ:  # which says it itself
                print(f"Go on with: {resume_command(folder.path)}", file=sys.stderr)
            raise
    found = _first(engine, folder.run)
    assert found is not None
    outcome = Outcome(folder, found)
    tell(outcome.text())
    return outcome


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


def _newest_state(folder: RunFolder, run: Run | None) -> dict[str, Any] | None:
    """The state to go on from; None where there has been no checkpoint yet.

    Raises:
        RunError: there were checkpoints, and they are damaged or nothing is left of the record that they belong to.
    """
    from dashpot.training.callbacks.checkpoints import damaged, latest, read_newest

    there, spoilt = latest(folder.checkpoints), damaged(folder.checkpoints)
    anew = f"dashpot train --config {folder.settings_file} starts a new run"
    if run is None and (there or spoilt):
        raise RunError(f"{folder.path} has checkpoints, but its record {folder.record.name} is gone; {anew}.")
    if there is None and spoilt:
        raise RunError(f"The checkpoints of {folder.path} are all damaged ({_names(spoilt)}); {anew}.")
    return None if there is None else read_newest(folder.checkpoints)


def _names(paths: list[Path]) -> str:
    return _listed([path.name for path in paths])


def _for_the_command(error: DashpotError, again: str | None) -> DashpotError:
    """The same sentence with the option in place of the argument that it stands for, and how to go on after it."""
    text = str(error).replace("override=True", "--override")
    return type(error)(text if again is None else f"{text} Go on with: {again}")


def _signals() -> tuple[int, ...]:
    """What stops a run tidily. One of several processes is told by Ctrl-C alone: SIGTERM is to end it whatever it waits
    for, once another is lost."""
    return (signal.SIGINT,) if SUPERVISOR in os.environ else ENDING


def _start_record(plan: Plan, folder: RunFolder, command: str | None) -> None:
    """Write the record's header; what a start that was killed before its first checkpoint has logged is dropped."""
    for name in LOGS.values():
        shutil.rmtree(folder.path / name, ignore_errors=True)
        (folder.path / name).unlink(missing_ok=True)
    write_text(folder.record, encode(plan.header(command)) + "\n")


def _where(folder: RunFolder, run: Run | None, state: Mapping[str, Any] | None) -> str:
    """What the run begins with."""
    if state is not None:
        epoch, batch = state["progress"]["position"]
        within = f" and {batch} batches" if batch else ""
        return f"Goes on in {folder.path} after {epoch} epochs{within}."
    return f"Kept in {folder.path}." if run is None else f"Starts over in {folder.path}: there was no checkpoint yet."


def resume_command(path: Path) -> str:
    """What goes on with the run in a folder."""
    import shlex

    return f"dashpot train --resume {shlex.quote(str(path))}"


def _checkpoints(plan: Plan, folder: RunFolder) -> Checkpoints:
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


def _callbacks(plan: Plan, folder: RunFolder, check: Callable[[], None], checkpoints: Checkpoints) -> list[Callback]:
    """What the settings ask for, beside record, checkpoints, table and the tidy stop."""
    from dashpot.training.callbacks.interruption import StopWhenAsked
    from dashpot.training.callbacks.progress import Progress
    from dashpot.training.callbacks.record import Record

    settings, (metric, mode) = plan.settings, plan.score
    phase = "train" if plan.problem.evaluation is None else "eval"
    skipping = settings.nonfinite == "skip" or settings.precision == "fp16"
    resumed = {"call": plan.entry.call(plan.steps), "task": dict(plan.task.config)}
    chosen: list[Callback] = [
        Record(folder.record, skipping=skipping, resumed=resumed),
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
        from dashpot.training.callbacks.stopping import EarlyStopping

        chosen.append(EarlyStopping(metric, phase=phase, patience=settings.patience, mode=mode))
    chosen += [_log(name, folder.path) for name in settings.log]
    return [*chosen, StopWhenAsked(check, checkpoints.save)]


def _log(name: str, folder: Path) -> Callback:
    """A log of every epoch in the run's folder."""
    from dashpot.training.callbacks import CSV, JSONLines, TensorBoard

    return {"csv": CSV, "jsonl": JSONLines, "tensorboard": TensorBoard}[name](folder / LOGS[name])


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
    if engine.world == 1:
        return action()
    found: tuple[Any, DashpotError | None] = (None, None)
    if engine.first:
        try:
            found = (action(), None)
        except DashpotError as error:
            found = (None, error)
    value, error = engine.gather(found)[0]
    if error is not None:
        raise error
    return value


def _check_task(plan: Plan, run: Run | None, path: Path, *, override: bool) -> None:
    """Refuse to go on with another task under the same name, and say where versions differ."""
    if run is None:
        return
    found = task_differences(run.task, dict(plan.task.config), "task")
    if found and not override:
        raise RunError(
            f"The task has changed since {path} was last at work: {_listed(found)}. --override goes on all the same."
        )
    other = task_differences(run.header["versions"], versions())
    if other:
        warnings.warn(
            f"{path} was begun with other versions, so its numbers may differ: {_listed(other)}.", stacklevel=2
        )


def _listed(found: list[str]) -> str:
    return "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
