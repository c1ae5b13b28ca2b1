"""Evaluation of a model on the evaluation data or the test data of its problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError
from dashpot.tasks.batch_size import as_examples, batch_size
from dashpot.tasks.counted_batches import first_epoch
from dashpot.tasks.loss_value import mean_and_count
from dashpot.tasks.model_call import call_model
from dashpot.tasks.running_means import RunningMeans
from dashpot.tasks.task import Problem


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return the number of correct predictions; a prediction is the argmax over the classes.

    Args:
        output: Scores of shape (batch, classes).
        target: Class indices of shape (batch,).

    Raises:
        ArgumentError: If `output` or `target` has another shape, such as that of a segmentation or a language model.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    tensor(1)
    """
    if output.ndim != 2 or target.shape != output.shape[:1]:
        raise ArgumentError(
            "tasks.accuracy: output and target must have shapes (batch, classes) and (batch,), got "
            f"{tuple(output.shape)} and {tuple(target.shape)}; with several labels per example, use a function that "
            "returns a pair (number of correct predictions, number of labels)."
        )
    return (output.argmax(dim=1) == target).sum()


def evaluate(problem: Problem, model: nn.Module | None = None, *, split: str = "evaluation") -> dict[str, float]:
    """Return the means of the loss and the metrics over the evaluation examples or the test examples.

    The loss is `problem.evaluation_loss`, or `problem.loss` if `evaluation_loss` is None; of several losses, their sum.
    The model runs in evaluation mode without gradients; afterwards, the mode of every submodule is restored. There is
    one host sync per 32 batches, and one per metric function for the check of its first value.

    Args:
        problem: Problem with the data, the loss, the metrics and the default model.
        model: Model to evaluate instead of `problem.model`, such as one with averaged weights.
        split: "evaluation" or "test".

    Returns:
        A mapping from "loss" and the keys of `problem.metrics` to mean values as Python floats.

    Raises:
        ArgumentError: If the problem has no such data.

    >>> from dashpot.tasks import get
    >>> problem = get("saddle").build(seed=0)
    >>> {name: round(value, 2) for name, value in evaluate(problem).items()}
    {'loss': 0.74}
    """
    check("evaluate", "split", split, OneOf(("evaluation", "test")))
    data = getattr(problem, split)
    if data is None:
        raise ArgumentError(f"evaluate: problem.{split} must be a Stream, got None.")
    model = problem.model if model is None else model
    means = RunningMeans(problem.metrics)
    with torch.no_grad(), evaluation_mode(model):
        for (x, y), known in first_epoch(data):
            x = x if known is None else as_examples(x, y, known)
            output, mean, count = _output_and_loss(problem, model, x, y)
            size = batch_size(x, y, problem.size, known, f"evaluate: {split}")
            means.add(output, y, mean, size, count)
            del output, mean  # otherwise they would occupy memory during the next forward pass
    return means.values()


def _output_and_loss(problem: Problem, model: nn.Module, x: Any, y: Any) -> tuple[Any, Tensor, Tensor | None]:
    """Return the output, the mean loss and its count; of several losses, their sum and the output for the last one."""
    loss = problem.loss if problem.evaluation_loss is None else problem.evaluation_loss
    if not isinstance(loss, Mapping):
        output = call_model(model, x)
        return output, *mean_and_count(loss(output, y), output, y, problem.weight, "evaluate")
    output, total = None, torch.zeros(())
    for part, function in loss.items():
        output = call_model(model, x, part=part)
        total = total + mean_and_count(function(output, y), output, y, None, "evaluate")[0]
    return output, total, None


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
