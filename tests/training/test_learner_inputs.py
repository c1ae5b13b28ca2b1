"""Models with several inputs, DataLoaders in problems, and callbacks of problems."""

from __future__ import annotations

import copy

import pytest
import torch
from learner_support import StopAt, X, Y
from torch import nn
from torch.utils.data import DataLoader, Dataset

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem, evaluate
from dashpot.training import EMA, Callback, Engine, Learner
from dashpot.training.loop import train


class Scores(nn.Module):
    """Linear scores of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, left, right):
        return self.layer(left) - self.layer(right)


class Examples(Dataset):
    """Examples with two inputs, as a tuple or a dict."""

    def __init__(self, named: bool) -> None:
        self.named = named

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index):
        left, right = X[index], X[index - 1]
        return ({"right": right, "left": left} if self.named else (left, right)), Y[index]


def loader(named: bool, **options) -> DataLoader:
    return DataLoader(Examples(named), batch_size=4, **options)


def problem(source, **options) -> Problem:
    torch.manual_seed(0)
    return Problem(Scores(), source, nn.functional.cross_entropy, evaluation=loader(named=True), **options)


def weights(source, **options):
    learner = Learner.of(problem(source), torch.optim.SGD, lr=0.5, engine=Engine("cpu"))
    learner.fit(2, **options)
    return learner.model.layer.weight.detach()


def reference():
    torch.manual_seed(0)
    model = Scores()
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        for start in range(0, 12, 4):
            rows = torch.arange(start, start + 4)
            opt.zero_grad()
            nn.functional.cross_entropy(model(X[rows], X[rows - 1]), Y[rows]).backward()
            opt.step()
    return model.layer.weight.detach()


@pytest.mark.parametrize("named", [True, False], ids=["dict", "tuple"])
def test_fit_inputs_of_default_collate_become_arguments(named):
    torch.testing.assert_close(weights(loader(named)), reference(), rtol=0, atol=0)


def test_fit_batches_with_tuple_become_arguments():
    batches = [((X[i : i + 4], X[torch.arange(i, i + 4) - 1]), Y[i : i + 4]) for i in (0, 4, 8)]
    torch.testing.assert_close(weights(batches), reference(), rtol=0, atol=0)


def test_fit_keys_without_argument_raises():
    batches = [({"left": X, "middle": X}, Y)]
    with pytest.raises(ArgumentError, match=r"arguments of Scores\.forward, left, right, got the keys left, middle"):
        weights(batches)


def test_evaluate_problem_with_data_loader_equals_fit():
    learner = Learner.of(problem(loader(named=False)), torch.optim.SGD, lr=0.5, engine=Engine("cpu"))
    learner.fit(1)
    measured = evaluate(problem(loader(named=False)), learner.model)
    assert measured["loss"] == pytest.approx(learner.history[-1]["eval"]["loss"], rel=1e-6)  # float32 sums


def test_problem_with_shuffled_data_loader_resumes_within_epoch():
    def fit(**options):
        source = loader(named=True, shuffle=True, generator=torch.Generator().manual_seed(5))
        learner = Learner.of(problem(source), dp.AdamW, lr=0.1, engine=Engine("cpu"))
        learner.fit(2, **options)
        return learner

    stop = StopAt(4)
    fit(callbacks=[stop])
    resumed, whole = fit(resume=copy.deepcopy(stop.state)), fit()
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    assert resumed.history == whole.history


class Count(Callback):
    def __init__(self) -> None:
        self.batches = 0

    def after_step(self, learner) -> None:
        self.batches += 1


@pytest.mark.parametrize("through_learner", [True, False])
def test_problem_callbacks_run_in_every_fit(through_learner):
    count = Count()
    given = problem(loader(named=True), callbacks=[count])
    if through_learner:
        Learner.of(given, torch.optim.SGD, lr=0.1, engine=Engine("cpu"), callbacks=[EMA(0.9)]).fit(2)
    else:
        train(given, torch.optim.SGD(given.model.parameters(), lr=0.1), 2)
    assert count.batches == 6
