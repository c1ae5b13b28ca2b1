from __future__ import annotations

import pytest
import torch
from torch import nn

from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem, Target, Task

BATCHES = Batches(torch.zeros(2, 1), torch.zeros(2, 1), batch_size=1)


def test_target_reached_includes_its_value():
    maximize, minimize = Target("accuracy", 0.9, "max"), Target("loss", 0.1, "min")
    assert [maximize.reached(value) for value in (0.89, 0.9, 0.91, float("nan"))] == [False, True, True, False]
    assert [minimize.reached(value) for value in (0.11, 0.1, 0.09, float("nan"))] == [False, True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("loss", float("nan"), "min"), "Target: value must be a number"),
        (("loss", 0.1, "down"), r"^Target: direction must be one of 'max', 'min', got 'down'\.$"),
    ],
)
def test_target_with_invalid_argument_raises(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Target(*arguments)


def loss(output, target):
    return (output - target).pow(2).mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "net"}, r"^Problem: model must be a torch\.nn\.Module, got 'net'\.$"),
        ({"train": 1}, r"^Problem: train must be Batches, another Stream or a DataLoader, got 1\.$"),
        ({"test": 1}, r"^Problem: test must be Batches, another Stream, a DataLoader or None, got 1\.$"),
        ({"callbacks": 1}, r"^Problem: callbacks must be a sequence of callbacks, got 1\.$"),
        ({"loss": "mse"}, r"^Problem: loss must be a function of \(output, target\), got 'mse'\.$"),
        ({"metrics": {"accuracy": 1}}, r"^Problem: metric 'accuracy' must be a function of .*, got int\.$"),
        ({"metrics": {"loss": loss}}, r"^Problem: metrics must have names other than 'loss', got 'loss'\.$"),
    ],
)
def test_problem_with_invalid_argument_raises(arguments, message):
    good = {"model": nn.Linear(1, 1), "train": BATCHES, "loss": loss}
    Problem(**good)
    with pytest.raises(ArgumentError, match=message):
        Problem(**(good | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"^Task: epochs must be an integer in \[1, inf\), got 0\.$"),
        ({"epochs": 1.5}, "^Task: epochs must be an integer"),
        ({"name": ""}, "^Task: name must be a non-empty string, got ''"),
        ({"build": None}, "^Task: build must be a function from a seed to a Problem, got None"),
        ({"target": 0.9}, "^Task: target must be a Target or None, got 0.9"),
        ({"margin": 0}, r"^Task: margin must be None or a number in \(0, inf\), got 0\.$"),
        ({"margin": float("nan")}, r"^Task: margin must be None or a number in \(0, inf\), got nan\.$"),
        ({"config": {"x": {1}}}, "^Task: config must be plain JSON, got .*set"),
        ({"config": {"x": float("nan")}}, "^Task: config must be plain JSON"),
    ],
)
def test_task_with_invalid_argument_raises(arguments, message):
    good = {"name": "mine", "build": print, "epochs": 1}
    Task(**good)
    with pytest.raises(ArgumentError, match=message):
        Task(**(good | arguments))
