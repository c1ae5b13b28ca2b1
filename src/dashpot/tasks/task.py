"""What a task is: a model, its data, a loss to lower and a target to reach, rebuilt afresh from a seed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dashpot.constraints import Interval, OneOf, check_fields, field
from dashpot.data.batches import Stream
from dashpot.errors import ArgumentError

__all__ = ["Problem", "Target", "Task"]


@dataclass(frozen=True)
class Target:
    """A value of an evaluation metric that counts as success.

    Args:
        metric: a name in the answer of `evaluate`: "loss", or a key of `Problem.metrics`.
        value: the value to reach.
        direction: "max" if larger is better, "min" if smaller is.

    >>> Target("accuracy", 0.95, "max").reached(0.96), Target("loss", 1e-3, "min").reached(float("nan"))
    (True, False)
    """

    metric: str
    value: float = field(dataclasses.MISSING, Interval())
    direction: str = field("max", OneOf(("max", "min")))

    def __post_init__(self) -> None:
        check_fields(self)

    def reached(self, value: float) -> bool:
        """Whether `value` is at least as good as the target; NaN never is."""
        return value >= self.value if self.direction == "max" else value <= self.value


@dataclass
class Problem:
    """One fresh instance of a task, ready to train.

    A step takes a pair (x, y) from `train` and lowers `loss(model(x), y)`. Synthetic problems fit the same loop: x is
    the step's gradient noise and the model's output the value of the surface.

    Args:
        model: the module whose parameters are trained.
        train: the training data.
        loss: maps (output, y) to the mean loss over the batch, a 0-d tensor.
        evaluation: the data `evaluate` runs over (its epoch 0), or None.
        metrics: name to a function that maps (output, y) to the *sum* of the metric over the batch, a 0-d tensor; for
            the accuracy, the number of right answers.
        evaluation_loss: what evaluation reports as "loss" in place of `loss`, of the same kind; None for `loss` itself.
            For a loss that is made harder than the question asked, as label smoothing does: evaluation then stays
            comparable with runs that train without it.

    Raises:
        ArgumentError: an argument is of the wrong type, or a metric is called "loss".
    """

    model: nn.Module
    train: Stream
    loss: Callable[[Tensor, Tensor], Tensor]
    evaluation: Stream | None = None
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = dataclasses.field(default_factory=dict)
    evaluation_loss: Callable[[Tensor, Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ArgumentError(f"Problem: model must be a torch.nn.Module, got {self.model!r}.")
        if not hasattr(self.train, "epoch"):
            raise ArgumentError(f"Problem: train must be Batches or another Stream, got {self.train!r}.")
        evaluation_loss = self.loss if self.evaluation_loss is None else self.evaluation_loss
        for name, function in {"loss": self.loss, "evaluation_loss": evaluation_loss, **self.metrics}.items():
            if not callable(function):
                raise ArgumentError(f"Problem: {name} must be a function of (output, target), got {function!r}.")
        if "loss" in self.metrics:
            raise ArgumentError("Problem: a metric must not be called 'loss', which names the loss itself.")


@dataclass(frozen=True)
class Task:
    """A named piece of work on which methods are compared.

    Args:
        name: what records and reports call it.
        build: maps a seed, an integer in [0, 2**32 - 1], to a fresh `Problem`. The same seed gives the same problem;
            torch's global random state is left as it was found.
        epochs: how many epochs to train where the caller does not say, at least 1.
        target: what counts as success, or None.
        description: one sentence.
        config: everything that tells this task from another of the same name, as plain JSON: batch size, options, the
            fingerprint of the data. It is written to every record.

    Raises:
        ArgumentError: an argument is out of range or of the wrong type.
    """

    name: str
    build: Callable[[int], Problem]
    epochs: int = field(dataclasses.MISSING, Interval(1, math.inf, "left", integer=True))
    target: Target | None = None
    description: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.name, str) or not self.name:
            raise ArgumentError(f"Task: name must be a non-empty string, got {self.name!r}.")
        if not callable(self.build):
            raise ArgumentError(f"Task: build must be a function from a seed to a Problem, got {self.build!r}.")
        if not isinstance(self.target, (Target, type(None))):
            raise ArgumentError(f"Task: target must be a Target or None, got {self.target!r}.")
        try:
            json.dumps(self.config, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"Task: config must be plain JSON, got {self.config!r} ({error}).") from error
