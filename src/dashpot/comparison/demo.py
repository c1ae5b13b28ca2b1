"""Study of `dashpot demo`, a shorter version of the default comparison."""

from __future__ import annotations

import os
from pathlib import Path

from dashpot.errors import DataError
from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames

JOBS = min(2, os.cpu_count() or 1)
"""Number of worker processes."""
SEEDS = 3
EPOCHS = {"fashion-mnist": 2, "digits": 12}
"""Number of epochs per run, by task; all methods together take at most two minutes on two cores."""
EVALUATE_EVERY = {"fashion-mnist": 53}
"""Number of steps between evaluations, by task: twice per epoch of Fashion-MNIST."""
METHODS: str | None = None
"""Methods of the demo; None for the standard list."""


def demo_study(data_dir: Path | None = None) -> tuple[Study, str]:
    """Return the study and a message that explains the choice of data.

    The task is Fashion-MNIST if its files are found or can be downloaded, else the digits data included in the package.
    Its methods use the shipped learning rates, without tuning.

    Args:
        data_dir: First folder to search for Fashion-MNIST.
    """
    try:
        study = _names("fashion-mnist", data_dir).study()
    except DataError as error:
        return _names("digits").study(), f"{error} Using the digits included in dashpot instead."
    return study, "Data: Fashion-MNIST, 54 000 training, 6 000 validation and 10 000 test images."


def _names(task: str, data_dir: Path | None = None) -> StudyNames:
    return StudyNames(
        task,
        data_dir=None if data_dir is None else str(data_dir),
        methods=METHODS,
        seeds=SEEDS,
        epochs=EPOCHS[task],
        design={"evaluate_every": EVALUATE_EVERY.get(task)},
    )
