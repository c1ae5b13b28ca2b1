"""Execution of items of tasks with other kinds of data, several optimizers, or random draws during evaluation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from item_support import example_study, run_item
from study_support import build, toy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dashpot.comparison import StudyFolder, entry, read_run
from dashpot.data import Batches
from dashpot.tasks import Problem
from dashpot.training.callbacks import EMA
from dashpot.training.loop import EpochStats, single_device_learner
from dashpot.utils.rng_state import seed_all


def with_loader(seed: int) -> Problem:
    """Build a problem whose order is drawn from a generator that evaluations of the training data must not advance."""
    problem = build(seed)
    x, y = torch.randn(22, 5, generator=torch.Generator().manual_seed(3)), torch.arange(22) % 2
    order = torch.Generator().manual_seed(seed)
    problem.train = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True, generator=order)
    problem.evaluation = None
    return problem


def with_draws(seed: int) -> Problem:
    """Build a problem whose loss draws from all global generators, also in evaluations."""
    problem = build(seed)
    plain = problem.loss
    assert callable(plain)
    problem.loss = lambda output, y: plain(output, y) * (1 + random.random() + np.random.rand() + torch.rand(()))
    return problem


def with_averages(seed: int) -> Problem:
    problem = build(seed)
    problem.callbacks = [EMA(decay=0.5)]
    return problem


def two_networks(seed: int) -> Problem:
    generator = torch.Generator().manual_seed(17)
    x = torch.randn(20, 3, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(3, 1), nn.Linear(3, 1)

            def forward(self, x):
                return self.one(x), self.two(x)

        model = Model()
    losses = {"one": lambda output, y: output[0].pow(2).mean(), "two": lambda output, y: output[1].pow(2).mean()}
    return Problem(
        model, Batches(x, torch.zeros(20), 5, shuffle=True, seed=seed), losses, Batches(x, torch.zeros(20), 20)
    )


def executed(tmp_path, built, **settings):
    study = example_study(task=toy(build=built, target=None), **{"epochs": 3, "evaluate_every": 1, **settings})
    ended = run_item(study, tmp_path)
    return study, ended, read_run(StudyFolder(tmp_path).record("adam", 0))


@pytest.mark.parametrize(
    ("built", "every"),
    [(with_loader, 1), (with_averages, 1), (with_draws, 12)],  # evaluations during a fit may draw, but not at step 0
)
def test_evaluations_do_not_change_the_training(tmp_path, built, every):
    study, ended, run = executed(tmp_path, built, evaluate_every=every)
    assert ended.status == "done"
    problem = built(0)
    seed_all(0)
    optimizer = study.entries[0].optimizer(problem.model.parameters(), 12)
    learner = single_device_learner(problem, optimizer)
    stats = EpochStats()
    learner.fit(steps=12, evaluate_every=12, callbacks=[stats])
    assert run.loss == stats.epochs[0].loss


def test_several_optimizers_are_executed(tmp_path):
    _, ended, run = executed(tmp_path, two_networks)
    assert ended.status == "done"
    assert run.end is not None
    assert run.end["state_bytes"] == 2 * (2 * 4 * 4 + 2 * 4)  # two moments of 4 numbers, and two step counts
    assert run.epochs[-1]["eval"]["loss"] < run.epochs[0]["eval"]["loss"]


def test_score_of_averaged_weights_is_that_of_the_test_data(tmp_path):
    def tested(seed):
        problem = with_averages(seed)
        problem.test = problem.evaluation
        return problem

    _, ended, run = executed(tmp_path, tested)
    assert run.end is not None
    assert run.end["test"] == run.epochs[-1]["eval"]
    assert ended.score == run.end["test"]["accuracy"]


@pytest.mark.parametrize("name", ["quadratic", "noisy-quadratic", "rosenbrock", "saddle"])
def test_synthetic_tasks_are_executed(tmp_path, name):
    from dashpot import tasks

    study = example_study(entry("adam", name), task=tasks.get(name, steps=6), epochs=1)
    ended = run_item(study, tmp_path)
    assert ended.status == "done"
    assert study.settings()["score"]["split"] == "validation"
