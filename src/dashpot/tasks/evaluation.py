"""Evaluation of a model on the evaluation data of its problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dashpot.errors import ArgumentError
from dashpot.tasks.batch_size import batch_size
from dashpot.tasks.counted_batches import first_epoch
from dashpot.tasks.loss_value import mean_and_count
from dashpot.tasks.model_call import call_model
from dashpot.tasks.running_means import RunningMeans
from dashpot.tasks.task import Problem


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the number of correct predictions; a prediction is the argmax over the classes.

    The shape of `output` is (batch, classes).

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(1)
    """
    return (output.argmax(dim=1) == target).sum()


def evaluate(problem: Problem, model: nn.Module | None = None) -> dict[str, float]:
    """Return the means of the loss and the metrics over the evaluation examples.

    The loss is `problem.evaluation_loss`, or `problem.loss` if `evaluation_loss` is None. The model runs in evaluation
    mode without gradients; afterwards, the mode of every submodule is restored. There is one host sync per 32 batches.

    Args:
        problem: Problem with the data, the loss, the metrics and the default model.
        model: Model to evaluate instead of `problem.model`, such as one with averaged weights.

    Returns:
        A mapping from "loss" and the keys of `problem.metrics` to mean values as Python floats.

    Raises:
        ArgumentError: If the problem has no evaluation data.

    >>> from dashpot.tasks import get
    >>> problem = get("saddle").build(seed=0)
    >>> {name: round(value, 2) for name, value in evaluate(problem).items()}
    {'loss': 0.74}
    """
    if problem.evaluation is None:
        raise ArgumentError("evaluate: problem.evaluation must be a Stream, got None.")
    model = problem.model if model is None else model
    loss = problem.loss if problem.evaluation_loss is None else problem.evaluation_loss
    means = RunningMeans(problem.metrics)
    with torch.no_grad(), evaluation_mode(model):
        for (x, y), known in first_epoch(problem.evaluation):
            output = call_model(model, x)
            mean, count = mean_and_count(loss(output, y), output, y, problem.weight, "evaluate")
            size = batch_size(x, y, problem.size, known, "evaluate: evaluation")
            means.add(output, y, mean, size, count)
            del output, mean  # otherwise they would occupy memory during the next forward pass
    return means.values()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode inside the block, and restore the mode of every submodule afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
