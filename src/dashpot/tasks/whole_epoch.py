"""Metrics of a whole phase, computed by a function of all outputs and targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import shown
from dashpot.errors import ArgumentError


class WholeEpoch:
    """Metric object that applies a function to the outputs and targets of a whole phase.

    The function is called once per phase, on the CPU, over the examples of all processes. It is called as
    `function(output, y)` with tensors. If its first parameter is named `y_true`, as in `sklearn.metrics`, it is called
    as `function(y, output)` with NumPy arrays. The outputs of a phase are kept in memory, on the CPU; with several
    processes, they are gathered on every rank. For large outputs, use torchmetrics objects, whose state is smaller.

    Args:
        function: Function of the concatenated outputs and targets that returns a number, or a dict of numbers.

    Raises:
        ArgumentError: If `function` is not callable.

    Example:
        >>> def macro_recall(output, y):
        ...     correct = output.argmax(1) == y
        ...     return torch.stack([correct[y == label].float().mean() for label in y.unique()]).mean()
        >>> metric = WholeEpoch(macro_recall)
        >>> metric.update(torch.eye(2), torch.tensor([0, 1]))
        >>> metric.update(torch.eye(2)[:1], torch.tensor([1]))
        >>> metric.compute()
        0.75
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        if not callable(function):
            raise ArgumentError(f"WholeEpoch: function must be a function of (output, y), got {shown(function)}.")
        self.function = function
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self.parts: list[tuple[Tensor, Tensor]] = []

    def update(self, output: Tensor, y: Tensor) -> None:
        """Add a batch."""
        for name, value in (("output", output), ("y", y)):
            if not isinstance(value, Tensor) or value.ndim == 0:
                got = "a 0-d tensor" if isinstance(value, Tensor) else type(value).__name__
                raise ArgumentError(f"WholeEpoch: {name} must be a tensor with a row per example, got {got}.")
        # Copies, because the model or the loader may reuse the memory.
        self.parts.append((output.detach().to("cpu", copy=True), y.detach().to("cpu", copy=True)))

    def compute(self) -> Any:
        """Return the value of the function for all batches."""
        output, y = (torch.cat(column) for column in zip(*self.parts, strict=True))
        value = self.function(_numpy(y), _numpy(output)) if self._is_like_sklearn else self.function(output, y)
        return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value

    @property
    def _is_like_sklearn(self) -> bool:
        try:
            return next(iter(inspect.signature(self.function).parameters), "") == "y_true"
        except (TypeError, ValueError):  # a built-in function without a signature
            return False

    def state_dict(self) -> dict[str, Any]:
        """Return the batches so far."""
        return {"outputs": [output for output, _ in self.parts], "targets": [y for _, y in self.parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the batches."""
        self.parts = list(zip(state["outputs"], state["targets"], strict=True))


def _numpy(value: Tensor) -> Any:
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).numpy()
