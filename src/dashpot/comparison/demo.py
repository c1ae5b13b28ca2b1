"""The demonstration: the default comparison, short, on real data, with a word on every stage."""

from __future__ import annotations

from pathlib import Path

from dashpot import tasks
from dashpot.errors import DataError
from dashpot.runs.default_lr import DEFAULT_METHODS
from dashpot.runs.entries import entry
from dashpot.runs.study import Study

__all__ = ["demo_study"]

EPOCHS = {"fashion-mnist": 2, "digits": 12}
"""Epochs of every run: two minutes or less for all methods on two cores."""


def demo_study(data_dir: Path | None = None) -> tuple[Study, str]:
    """The study of `dashpot demo`, and a sentence that says on which data it runs and why.

    Fashion-MNIST where it is found or can be downloaded, else the digits in the package.
    """
    try:
        task = tasks.get("fashion-mnist", data_dir=data_dir)
        reason = "Fashion-MNIST is here: 60 000 training and 10 000 test images."
    except DataError as error:
        task = tasks.get("digits")
        reason = f"{error} The demonstration therefore runs on the digits that come with dashpot."
    entries = tuple(entry(name, task.name) for name in DEFAULT_METHODS)
    return Study(task, entries, seeds=(0, 1), epochs=EPOCHS[task.name]), reason
