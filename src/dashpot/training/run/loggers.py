"""Loggers of a run, by the names of the setting `log`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from importlib.util import find_spec

from dashpot.errors import RunError
from dashpot.runs.settings import Settings
from dashpot.training.callback import Callback
from dashpot.training.callbacks import CSV, JSONLines, TensorBoard, Trackio, WandB
from dashpot.training.run.folder import RunFolder

PROJECT = "dashpot"
"""Project in experiment trackers, unless WANDB_PROJECT or TRACKIO_PROJECT is set."""
PACKAGES = ("tensorboard", "wandb", "trackio")
"""Logs that are written by a package of the same name."""


def check_packages(names: Iterable[str]) -> None:
    """Check that the packages of the named logs are installed.

    Raises:
        RunError: If a package is missing.
    """
    for name in names:
        if name in PACKAGES and find_spec(name) is None:
            raise RunError(f"train: --log {name} needs {name}: pip install 'dashpot[{name}]'.")


def make_logger(name: str, folder: RunFolder, settings: Settings) -> Callback:
    """Return the logger for a name in the setting `log`."""
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        return WandB(project, name=folder.path.name, folder=folder.path, config=settings.to_dict())
    if name == "trackio":
        # trackio identifies a resumed run by its name, and folders of different runs may have equal names.
        unique = f"{folder.path.name}-{uuid.uuid4().hex[:8]}"
        return Trackio(os.environ.get("TRACKIO_PROJECT", PROJECT), name=unique, config=settings.to_dict())
    files = {"csv": CSV, "jsonl": JSONLines, "tensorboard": TensorBoard}
    return files[name](folder.logs[name], append=True)
