"""Warning about metric functions that return a mean over the batch."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from dashpot.data import Batches
from dashpot.tasks import Problem, accuracy, evaluate
from dashpot.tasks.mean_check import check_sum

OUTPUT, Y = torch.eye(4)[:, :2] * 3, torch.tensor([0, 1, 0, 1])


def check(metric):
    check_sum("acc", metric, metric(OUTPUT, Y), OUTPUT, Y)


def mean_accuracy(output, y):
    return (output.argmax(1) == y).float().mean()


def test_metric_that_returns_a_mean_warns_once():
    def metric(output, y):
        return mean_accuracy(output, y)

    with pytest.warns(UserWarning, match=r"Metric 'acc' has the same value .* so it is not a sum over the examples"):
        check(metric)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(metric)


def test_evaluation_with_a_mean_as_metric_warns():
    given = Problem(nn.Identity(), data := Batches(OUTPUT, Y, 2), nn.functional.cross_entropy, data)
    given.metrics = {"acc": lambda output, y: 0.5 * mean_accuracy(output, y) + 0.25}
    with pytest.warns(UserWarning, match="Metric 'acc' has the same value"):
        assert evaluate(given)["acc"] == pytest.approx((0.75 + 0.5) / 4)


@pytest.mark.parametrize(
    "metric",
    [
        accuracy,
        lambda output, y: (output.argmax(1) == y).sum().item(),
        lambda output, y: (output.argmax(1) == y).float().mean() * len(y),
        lambda output, y: (mean_accuracy(output, y), torch.ones(())),
        lambda output, y: torch.ones(3),
        lambda output, y: output.view(4, 2).mean(),
        lambda output, y: float("nan"),
        lambda output, y: 0 * mean_accuracy(output, y),
    ],
    ids=["accuracy", "float", "scaled mean", "pair", "vector", "fixed size", "nan", "zero"],
)
def test_other_metrics_do_not_warn(metric):
    check(metric)


@pytest.mark.parametrize(
    ("output", "y"), [([OUTPUT], Y), (OUTPUT, 3), (OUTPUT, Y[:3]), (OUTPUT[:1], Y[:1]), (torch.ones(()), Y)]
)
def test_data_other_than_tensors_of_equal_length_are_not_tested(output, y):
    def metric(output, y):
        raise AssertionError

    check_sum("acc", metric, 0.5, output, y)


@pytest.mark.parametrize("value", [0, 2, -0.5, float("nan"), torch.ones(3), (0.5, 1)])
def test_functions_with_other_values_are_not_called_again(value):
    calls = []

    def metric(output, y):
        calls.append(len(y))
        return value

    check(metric)
    assert calls == [4]
