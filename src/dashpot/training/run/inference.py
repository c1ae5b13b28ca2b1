"""Evaluation of the model of a run, and its predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, RandomSampler

from dashpot.constraints import unknown
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.runs.environment import torch_threads
from dashpot.tasks import Problem
from dashpot.training.distributed.engine import Engine
from dashpot.training.learner import Learner
from dashpot.training.run.saved_model import SavedModel, load_saved
from dashpot.utils.rng_state import preserve_rng_state, seed_all

PREDICT = "predict"
"""Split of a problem whose batches have no targets."""


class Evaluation(NamedTuple):
    """Means of a model over a split, with the epoch and the step of its checkpoint."""

    split: str
    epoch: int
    steps: int
    means: dict[str, float]


class Prediction(NamedTuple):
    """Outputs of a model for a split, as returned by `Learner.predict`."""

    split: str
    outputs: Any


def evaluate_run(
    path: Path, split: str | None = None, which: str = "best", accelerator: str | None = None
) -> Evaluation:
    """Evaluate the model of a run, with the precision and the number of threads of the run, in one process.

    Args:
        path: Folder of the run.
        split: Data to evaluate: "evaluation" (the default), "test", "train", or a key of `Problem.splits`. `Batches`
            are read in order and without augmentation.
        which: "best" or "last", as for `load_model`.
        accelerator: Accelerator. Default: that of the run.

    Raises:
        ArgumentError: If the split does not exist or has no targets.
        DashpotError: As for `load_model`.
    """
    saved = load_saved(path, which)
    name = "evaluation" if split is None else split
    if name == PREDICT:
        raise ArgumentError("evaluate: split must have targets, but the batches of 'predict' have none.")
    source = _source(saved.problem, name)
    with torch_threads(saved.settings.threads), preserve_rng_state():
        means = _learner(saved, accelerator).evaluate(source)
    return Evaluation(name, saved.epoch, saved.steps, means)


def predict_run(
    path: Path, split: str | None = None, which: str = "best", accelerator: str | None = None
) -> Prediction:
    """Return the outputs of the model of a run, with the precision and the number of threads of the run.

    Args:
        path: Folder of the run.
        split: Data, as for `evaluate_run`. Default: "predict" if the problem has this split, else "evaluation".
        which: "best" or "last", as for `load_model`.
        accelerator: Accelerator. Default: that of the run.

    Raises:
        ArgumentError: If the split does not exist, or its order is random.
        DashpotError: As for `load_model`.
    """
    saved = load_saved(path, which)
    name = split or (PREDICT if PREDICT in saved.problem.splits else "evaluation")
    source = _source(saved.problem, name)
    if isinstance(source, DataLoader) and isinstance(source.sampler, RandomSampler):
        raise ArgumentError(f"predict: split must have a fixed order, but the DataLoader of {name!r} shuffles.")
    with torch_threads(saved.settings.threads), preserve_rng_state():
        outputs = _learner(saved, accelerator).predict(source, labelled=name != PREDICT)
    return Prediction(name, outputs)


def _learner(saved: SavedModel, accelerator: str | None) -> Learner:
    """Return a learner that evaluates the model like the run."""
    settings = saved.settings
    seed_all(settings.seed)
    engine = Engine(accelerator or settings.accelerator, precision=settings.precision)
    learner = Learner.of(saved.problem, torch.optim.SGD, engine=engine)
    learner.epoch = max(0, saved.epoch - 1)  # streams yield the batches of the epoch that the run evaluated
    return learner


def _source(problem: Problem, split: str) -> Any:
    """Return the data of a split."""
    sources = {"train": problem.train, "evaluation": problem.evaluation, "test": problem.test, **problem.splits}
    known = {name: source for name, source in sources.items() if source is not None}
    if split not in known:
        raise unknown("split", split, known)
    source = known[split]
    if split == "train" and isinstance(source, Batches):
        return dataclasses.replace(source, shuffle=False, augment=None, drop_last=False)
    return source
