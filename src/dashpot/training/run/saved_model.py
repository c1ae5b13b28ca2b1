"""Model of a run, with the weights of one of its checkpoints."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.settings import Settings
from dashpot.tasks import Problem
from dashpot.training.callbacks.checkpoints import best, read_newest
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.plan import load_task
from dashpot.training.run.resume import trained_on_all
from dashpot.training.state import checkpoint_file, tensor_names, weights
from dashpot.training.state.fit_schema import check_state
from dashpot.utils.diff import diff_data
from dashpot.utils.file_spec import is_file_spec
from dashpot.utils.warn import warn

WHICH = OneOf(("best", "last"))


@dataclass(frozen=True)
class SavedModel:
    """Model of a run in its problem.

    Attributes:
        settings: Settings of the run.
        problem: Problem of the task; its model has the evaluated weights.
        epoch: Number of finished epochs at the checkpoint.
        steps: Number of optimizer steps at the checkpoint.
    """

    settings: Settings
    problem: Problem
    epoch: int
    steps: int


def load_model(run: str | os.PathLike[str], which: str = "best") -> nn.Module:
    """Return the model of a run of `dashpot train`, on the CPU and in evaluation mode.

    The task of the run builds a new model, into which the weights of a checkpoint are loaded. These are the weights
    that the run evaluates: with `--ema`, the averages. Checkpoints contain full tensors, so that runs of several
    processes (DDP, FSDP2) are loaded in the same way.

    Args:
        run: Folder of the run.
        which: "best" for the checkpoint of the best epoch, as measured by the metric that ranks methods, or "last" for
            the latest checkpoint.

    Raises:
        ArgumentError: If an argument is out of range, or the task of the run cannot be loaded, for example because its
            file was moved.
        DataError: If the data of the task are not available.
        RunError: If the folder is not that of a run or has no such checkpoint, or the checkpoint is damaged or does not
            match the model of the task.

    Example:
        >>> import tempfile
        >>> from dashpot.training.run.run import start          # as `dashpot train digits --optimizer adamw --epochs 1`
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = Settings(task="digits", optimizer="adamw", epochs=1, threads=1, accelerator="cpu")
        ...     _ = start(settings, Path(folder, "run"), write_line=lambda line: None)
        ...     model = load_model(Path(folder, "run"))
                train              eval
        epoch ...
        >>> model.training, model(torch.zeros(1, 1, 8, 8)).shape
        (False, torch.Size([1, 10]))
    """
    return load_saved(run, which).problem.model


def load_saved(run: str | os.PathLike[str], which: str) -> SavedModel:
    """Return the problem of a run, whose model has the weights of a checkpoint; see `load_model`."""
    check("load_model", "which", which, WHICH)
    if not isinstance(run, (str, os.PathLike)):
        raise ArgumentError(f"load_model: run must be the path of a folder, got {run!r}.")
    folder = RunFolder.open(Path(run))
    settings, state = folder.settings(), _read(folder, which)
    check_state(state)
    problem = _problem(folder, settings)
    _load(problem.model, state)
    progress = state["progress"]
    return SavedModel(settings, problem, progress["position"][0], progress["steps"])


def _read(folder: RunFolder, which: str) -> dict[str, Any]:
    """Return the state in a checkpoint."""
    if which == "last":
        return read_newest(folder.checkpoints)
    path = best(folder.checkpoints)
    if path is None:
        raise RunError(
            f"{folder.path} has no best checkpoint: no epoch was completed, or the metric of every epoch was NaN; "
            "choose last for the latest checkpoint."
        )
    return checkpoint_file.read(path)


def _problem(folder: RunFolder, settings: Settings) -> Problem:
    """Return the problem of the run's task, and warn if the task has changed since the run was started."""
    try:
        task = load_task(settings)
    except ArgumentError as error:
        if not is_file_spec(settings.task):
            raise
        raise ArgumentError(f"{error} If the file was moved, change `task` in {folder.settings_file}.") from error
    recorded = folder.run()
    if recorded is not None and (found := diff_data(recorded.task, dict(task.config), "task")):
        warn(f"The task of {folder.path} has changed since the run was started: {'; '.join(found)}.")
        if trained_on_all(settings.task, recorded.task, task.config):
            task = load_task(
                dataclasses.replace(settings, task_options={**settings.task_options, "validation_size": 0})
            )
    return task.build(settings.seed)


@torch.no_grad()
def _load(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load the evaluated weights into a model, and set it to evaluation mode."""
    state = tensor_names.matched_state(model, state)
    weights.load_model_state(model, state["model"])
    weights.load_extra_state(model, {**state["besides"], "gradients": {}})
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for callback in state["callbacks"].values():
        if callback.get("count") and "averages" in callback:  # of `AveragedWeights`
            averages = {**callback["averages"], **callback["statistics"]}
            for name, value in averages.items():
                if name not in own or own[name].shape != value.shape:
                    raise RunError(f"The checkpoint does not match the model: it has a different average of {name}.")
                own[name].copy_(value)
    model.to("cpu").eval()
