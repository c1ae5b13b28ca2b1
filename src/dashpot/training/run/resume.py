"""Resume checks and checkpoint selection for the run in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.environment import versions
from dashpot.runs.records import Run
from dashpot.runs.settings import TABLES, Settings, diff_settings
from dashpot.training.callbacks.checkpoints import damaged, latest, read_newest
from dashpot.training.run.folder import RunFolder, exists, list_names
from dashpot.training.run.plan import RunPlan
from dashpot.training.state.fit_schema import check_state
from dashpot.utils.diff import diff_data
from dashpot.utils.file_spec import is_file_spec
from dashpot.utils.warn import warn

FIXED = ("task", "optimizer", "seed")
"""Settings that cannot change once a run has started."""
MAX_LISTED = 6


def merge_settings(saved: Settings, given: Mapping[str, Any], path: Path, *, override: bool) -> Settings:
    """Return the saved settings of the run in `path`, updated with the `given` settings.

    Raises:
        RunError: If a setting differs and `override` is False, or if a setting differs that cannot be changed.
    """
    found = diff_settings(saved, given)
    if not found:
        return saved
    fixed = [name for name in FIXED if name in given and given[name] != getattr(saved, name)]
    if fixed:
        changes = _joined(diff_settings(saved, {name: given[name] for name in fixed}))
        raise RunError(f"{path}: a resumed run cannot change its {', '.join(fixed)} ({changes}); start a new run.")
    if not override:
        raise RunError(
            f"{path} was started with different settings: {_joined(found)}. Nothing was changed; --override resumes "
            "with the given ones."
        )
    tables = {name: {**getattr(saved, name), **given.get(name, {})} for name in TABLES}
    return dataclasses.replace(saved, **{**given, **tables})


def latest_state(folder: RunFolder, run: Run | None) -> dict[str, Any] | None:
    """Load the latest undamaged checkpoint; return None if the run has not written a checkpoint yet.

    Raises:
        RunError: If checkpoints were written but are missing or all damaged, if the record of the run is missing, or if
            the folder cannot be read.
    """
    list_names(folder.checkpoints)  # raises if the folder is unreadable, because it would appear empty below
    newest, unusable = latest(folder.checkpoints), damaged(folder.checkpoints)
    if newest is not None:
        exists(newest)  # raises if the folder has read permission but no search permission
    restart = f"{folder.repeat_command} starts a new run"
    found = "checkpoints" if newest or unusable else "logs" if any(map(exists, folder.logs.values())) else None
    if run is None and found:
        raise RunError(f"{folder.path} has {found}, but its record {folder.record.name} is missing; {restart}.")
    if newest is None and unusable:
        names = _joined([path.name for path in unusable])
        raise RunError(f"The checkpoints of {folder.path} are all damaged ({names}); {restart}.")
    if newest is None and run is not None and _had_checkpoint(folder, run):
        raise RunError(
            f"The checkpoints of {folder.path} are missing, although its record {folder.record.name} shows that some "
            f"were written; {restart}."
        )
    if newest is None:
        return None
    state = read_newest(folder.checkpoints)
    check_state(state)  # before the command prints the position
    return state


def _had_checkpoint(folder: RunFolder, run: Run) -> bool:
    """Return whether the record shows that a checkpoint was written.

    A record of a single epoch is not sufficient: the checkpoint of an epoch is written after the epoch's line in the
    record, so the run may have been killed in between. At that time, the folder of the checkpoints already exists; if
    it is missing, it was deleted.
    """
    written = run.end is not None or len(run.epochs) > 1 or bool(run.resumed)
    return written or (len(run.epochs) == 1 and list_names(folder.checkpoints) is None)


def check_recorded_identity(saved: Settings, run: Run | None, folder: RunFolder) -> None:
    """Check that the task, the optimizer and the seed in `run.toml` match the record.

    Raises:
        RunError: If the task, the optimizer or the seed differs.
    """
    recorded: dict[str, Any] = {} if run is None else run.header.get("run", {})
    for name in FIXED:
        new = getattr(saved, name)
        old = recorded.get(name, new)
        if old != new and not (name in ("task", "optimizer") and _is_moved(old, new)):
            raise RunError(
                f"{folder.path}: a resumed run cannot change its {name}: run.toml has {name} {new}, but the record has "
                f"{old}; restore the value, or start a new run with {folder.repeat_command}."
            )


def _is_moved(old: str, new: str) -> bool:
    """Return whether two files define an object of the same name; their contents are compared later."""
    functions = [task.rpartition(".py")[2] or ":build" for task in (old, new)]
    return is_file_spec(old) and is_file_spec(new) and functions[0] == functions[1]


def check_task(plan: RunPlan, run: Run | None, path: Path, *, override: bool) -> None:
    """Check that the task has not changed since the run was started, and warn if software versions differ.

    Raises:
        RunError: If the settings, file or data of the task differ and `override` is False.
    """
    if run is None:
        return
    found = diff_data(run.task, dict(plan.task.config), "task")
    if found and not override:
        advice = "Resume with --override to accept this."
        if trained_on_all(plan.settings.task, run.task, plan.task.config):
            advice = "Resume with --override --task-options validation_size=0 to train on the same data as before."
        raise RunError(f"The task of {path} has changed: {_joined(found)}. {advice}")
    if found := diff_data(run.header["versions"], versions()):
        warn(f"{path} was started with different versions, so its numbers may differ: {_joined(found)}.")


def check_optimizer_file(plan: RunPlan, run: Run | None, path: Path, *, override: bool) -> None:
    """Check that the file of an optimizer has not changed since the run was started.

    Raises:
        RunError: If the contents of the file differ and `override` is False.
    """
    saved, current = None if run is None else run.header.get("file_sha256"), plan.entry.file_sha256
    if run is not None and saved != current and not override:
        raise RunError(
            f"The optimizer file of {path} has changed: SHA-256 saved {saved}, current {current}. Resume with "
            "--override to accept this."
        )


def trained_on_all(task: str, recorded: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Return whether a run used training data that its built-in task now holds out for validation.

    Before validation data were held out, these tasks trained on all images and evaluated on the test images.
    """
    return not is_file_spec(task) and "validation_size" in config and "validation_size" not in recorded


def _joined(phrases: list[str]) -> str:
    more = len(phrases) - MAX_LISTED
    return "; ".join(phrases[:MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
