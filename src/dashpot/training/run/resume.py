"""Whether and from where a run in a folder can go on: what its settings, its record and its checkpoints say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashpot.errors import RunError
from dashpot.runs.diff import diff_data
from dashpot.runs.environment import versions
from dashpot.runs.records import Run
from dashpot.tasks.user_file import is_file_spec
from dashpot.training.run.folder import RunFolder, exists, list_names
from dashpot.training.run.plan import RunPlan
from dashpot.training.run.settings import Settings, diff_settings
from dashpot.utils.warn import warn

__all__ = ["check_recorded_identity", "check_task", "latest_state", "merge_settings"]

FIXED = ("task", "optimizer", "seed")
"""What a run that has begun cannot change."""
SHOWN = 6


def merge_settings(there: Settings, given: Mapping[str, Any], path: Path, *, override: bool) -> Settings:
    """The settings of the run in `path` with those given in their place.

    Raises:
        RunError: some differ and are not to be overridden, or cannot be.
    """
    found = diff_settings(there, given)
    if not found:
        return there
    fixed = [name for name in FIXED if name in given and given[name] != getattr(there, name)]
    if fixed:
        which = _listed(diff_settings(there, {name: given[name] for name in fixed}))
        raise RunError(
            f"{path} has begun and cannot change its {', '.join(fixed)} ({which}); start a new run with that."
        )
    if not override:
        raise RunError(
            f"{path} is a run with other settings: {_listed(found)}. Nothing was changed; --override goes on with the "
            "new ones."
        )
    return dataclasses.replace(there, **{**given, "set": {**there.set, **given.get("set", {})}})


def latest_state(folder: RunFolder, run: Run | None) -> dict[str, Any] | None:
    """The state to go on from; None where there has been no checkpoint yet.

    Raises:
        RunError: there were checkpoints, and they are gone, damaged or nothing is left of the record that they belong
            to; or the folder cannot be read.
    """
    from dashpot.training.callbacks.checkpoints import damaged, latest, read_newest

    list_names(folder.checkpoints)  # a folder that may not be read looks empty below
    there, spoilt = latest(folder.checkpoints), damaged(folder.checkpoints)
    if there is not None:
        exists(there)  # in a folder that may be listed and not entered, it is not to be seen
    anew = f"{folder.restart_command} starts a new run"
    has = "checkpoints" if there or spoilt else "logs" if any(map(exists, folder.logs.values())) else None
    if run is None and has:
        raise RunError(f"{folder.path} has {has}, but its record {folder.record.name} is gone; {anew}.")
    if there is None and spoilt:
        raise RunError(f"The checkpoints of {folder.path} are all damaged ({_names(spoilt)}); {anew}.")
    if there is None and run is not None and _had_checkpoint(folder, run):
        raise RunError(
            f"The checkpoints of {folder.path} are gone, but its record {folder.record.name} shows that there were "
            f"some; {anew}."
        )
    return None if there is None else read_newest(folder.checkpoints)


def _had_checkpoint(folder: RunFolder, run: Run) -> bool:
    """Whether the record shows that there has been a checkpoint.

    One epoch alone does not: its checkpoint is written after its line, and a run can be killed in between. The folder
    is there by then.
    """
    late = run.end is not None or len(run.epochs) > 1 or bool(run.resumed)
    return late or (len(run.epochs) == 1 and list_names(folder.checkpoints) is None)


def _names(paths: list[Path]) -> str:
    return _listed([path.name for path in paths])


def check_recorded_identity(there: Settings, run: Run | None, folder: RunFolder) -> None:
    """Refuse a `run.toml` that was edited into the one of another run."""
    begun: dict[str, Any] = {} if run is None else run.header.get("run", {})
    for name in FIXED:
        new = getattr(there, name)
        old = begun.get(name, new)
        if old != new and not (name == "task" and _is_moved(old, new)):
            raise RunError(
                f"{folder.path} has begun and cannot change its {name}: run.toml says {name} {new}, the record {old}; "
                f"put that back, or start a new run with {folder.restart_command}."
            )


def _is_moved(old: str, new: str) -> bool:
    """Whether two tasks are the same function in files of different places; whether it is the same file shows later."""
    functions = [task.rpartition(".py")[2] or ":build" for task in (old, new)]
    return is_file_spec(old) and is_file_spec(new) and functions[0] == functions[1]


def check_task(plan: RunPlan, run: Run | None, path: Path, *, override: bool) -> None:
    """Refuse to go on with another task under the same name, and say where versions differ."""
    if run is None:
        return
    found = diff_data(run.task, dict(plan.task.config), "task")
    if found and not override:
        raise RunError(
            f"The task has changed since {path} was last at work: {_listed(found)}. --override goes on all the same."
        )
    other = diff_data(run.header["versions"], versions())
    if other:
        warn(f"{path} was begun with other versions, so its numbers may differ: {_listed(other)}.")


def _listed(found: list[str]) -> str:
    return "; ".join(found[:SHOWN]) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
