"""Study of `dashpot demo`, a shorter version of the default comparison."""

from __future__ import annotations

from pathlib import Path

from dashpot import tasks
from dashpot.errors import DataError
from dashpot.runs.default_lr import DEFAULT_METHODS
from dashpot.runs.entries import entry
from dashpot.runs.study import Study

EPOCHS = {"fashion-mnist": 2, "digits": 12}
"""Number of epochs per run, by task; all methods together take at most two minutes on two cores."""


def demo_study(data_dir: Path | None = None) -> tuple[Study, str]:
    """Return the study and a message that explains the choice of data.

    The task is Fashion-MNIST if its files are found or can be downloaded, else the digits data included in the package.

    Args:
        data_dir: First folder to search for Fashion-MNIST.
    """
    try:
        task = tasks.get("fashion-mnist", data_dir=data_dir)
        reason = "Data: Fashion-MNIST, 60 000 training and 10 000 test images."
    except DataError as error:
        task = tasks.get("digits")
        reason = f"{error} Using the digits included in dashpot instead."
    entries = tuple(entry(name, task.name) for name in DEFAULT_METHODS)
    return Study(task, entries, seeds=(0, 1), epochs=EPOCHS[task.name]), reason
