from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem, accuracy, evaluate


class ModeDependent(nn.Module):
    """Model whose output depends on the mode, with a submodule that stays in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.frozen = nn.Dropout(0.5).eval()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.frozen(self.linear(x)))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    x, y = torch.randn(23, 4), torch.randint(3, (23,))
    batches = Batches(x, y, batch_size=5)
    return Problem(ModeDependent(), batches, nn.functional.cross_entropy, batches, {"accuracy": accuracy})


def test_evaluate_matches_loop_over_examples(problem):
    """The tolerance of 1e-6 allows for a different order of float32 sums."""
    losses, hits = [], []
    with torch.no_grad():
        for x, y in zip(problem.evaluation.x, problem.evaluation.y, strict=True):
            output = problem.model.linear(x)
            losses.append(nn.functional.cross_entropy(output, y).item())
            hits.append(float(output.argmax() == y))
    result = evaluate(problem)
    assert result["loss"] == pytest.approx(sum(losses) / 23, rel=1e-6)
    assert result["accuracy"] == sum(hits) / 23
    assert list(result) == ["loss", "accuracy"]
    assert all(type(value) is float for value in result.values())


def test_evaluate_keeps_modes_gradients_and_random_state(problem):
    before = torch.get_rng_state()
    modes = [module.training for module in problem.model.modules()]
    assert modes == [True, True, False, True]
    evaluate(problem)
    assert [module.training for module in problem.model.modules()] == modes
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.grad is None and p.requires_grad for p in problem.model.parameters())


def test_evaluate_restores_modes_after_error(problem):
    problem.loss = lambda output, target: output.no_such_attribute
    with pytest.raises(AttributeError):
        evaluate(problem)
    assert problem.model.training


def test_evaluate_with_different_model(problem):
    constant = nn.Linear(4, 3)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    result = evaluate(problem, constant)
    assert result["accuracy"] == (problem.evaluation.y == 0).double().mean().item()


def test_evaluate_syncs_with_device_once(problem, monkeypatch):
    """The value for the first batch is read as well, to detect metric functions that return a mean."""
    problem.metrics = {"accuracy": lambda output, y: accuracy(output, y) + 2 * len(y)}  # a sum beyond (0, 1]
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
        real = getattr(torch.Tensor, name)

        def recording(tensor, *, real=real, name=name):
            reads.append(name)
            return real(tensor)

        monkeypatch.setattr(torch.Tensor, name, recording)
    evaluate(problem)
    assert reads == ["__float__", "tolist"]


def test_evaluate_counts_exactly_in_half_precision():
    """bfloat16 cannot represent 299."""
    x = torch.ones(300, 2, dtype=torch.bfloat16)
    batches = Batches(x, torch.zeros(300, dtype=torch.int64), batch_size=300)
    model = nn.Identity()
    problem = Problem(
        model, batches, lambda o, y: (o[:, 0] * 3).mean(), batches, {"right": lambda o, y: (y == 0).sum() - 1}
    )
    assert evaluate(problem) == {"loss": 3.0, "right": 299 / 300}


def test_evaluate_without_evaluation_data_raises(problem):
    problem.evaluation = None
    with pytest.raises(ArgumentError, match=r"problem\.evaluation must be a Stream, got None"):
        evaluate(problem)


@pytest.mark.parametrize(
    ("output", "target"),
    [((4, 5, 6, 6), (4, 6, 6)), ((4, 7, 5), (4, 7)), ((4, 5), (4, 1)), ((4, 5), (3,))],
    ids=["pixels", "tokens", "column", "rows"],
)
def test_accuracy_of_other_shapes_raises(output, target):
    with pytest.raises(ArgumentError) as caught:
        accuracy(torch.zeros(output), torch.zeros(target, dtype=torch.int64))
    assert f"(batch, classes) and (batch,), got {output} and {target}; with several labels per" in str(caught.value)


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.float64, int])
def test_metric_with_numpy_scalar_equals_tensor(problem, kind):
    problem.metrics["numpy"] = lambda output, y: kind((output.argmax(1) == y).numpy().sum())
    means = evaluate(problem)
    assert means["numpy"] == means["accuracy"] > 0
