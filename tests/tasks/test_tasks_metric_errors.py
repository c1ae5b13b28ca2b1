"""Errors of metrics and of metric objects."""

from __future__ import annotations

import pytest
import torch

from dashpot.errors import ArgumentError
from dashpot.tasks import WholeEpoch
from dashpot.tasks.running_means import RunningMeans

OUTPUT, TARGET = torch.zeros(4, 2), torch.zeros(3)


class Failing:
    """Metric object whose method `method` fails."""

    def __init__(self, method: str) -> None:
        self.method = method

    def update(self, output, target):
        if self.method == "update":
            raise KeyError("labels")

    def compute(self):
        raise ZeroDivisionError

    def reset(self):
        pass


def means_of(metric) -> dict[str, float]:
    means = RunningMeans({"score": metric})
    means.add(OUTPUT, TARGET, torch.tensor(0.0), 4)
    return means.values()


SHAPES = r"^Metric 'score' failed for output a tensor of shape \(4, 2\) .* and target a tensor of shape \(3,\) .*: "


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda output, target: (output == target).sum(), SHAPES + "RuntimeError: The size of tensor"),
        (Failing("update"), SHAPES + "KeyError: 'labels'"),
        (Failing("compute"), r"^Metric 'score' failed: ZeroDivisionError: no message\.$"),
        (WholeEpoch(lambda output, target: output @ target), "^Metric 'score' failed: RuntimeError: size mismatch"),
    ],
)
def test_error_of_metric_names_metric_and_shapes(metric, message):
    with pytest.raises(ArgumentError, match=message) as error:
        means_of(metric)
    assert error.value.__cause__ is not None
    assert "\n" not in str(error.value)
