"""Tasks, which create problems from a seed. A problem consists of a model, data, a loss and metrics."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from dashpot.constraints import Interval, OneOf, Optional, check_fields, field, shown
from dashpot.data.batches import Stream
from dashpot.errors import ArgumentError
from dashpot.tasks.metric_checks import checked_metrics


@dataclass(frozen=True)
class Target:
    """Target value of an evaluation metric.

    Args:
        metric: "loss" or a key of `Problem.metrics`.
        value: Value to reach, a finite number.
        direction: "max" if larger values are better, "min" if smaller values are better.

    >>> Target("accuracy", 0.95, "max").reached(0.96), Target("loss", 1e-3, "min").reached(float("nan"))
    (True, False)
    """

    metric: str
    value: float = field(dataclasses.MISSING, Interval())
    direction: str = field("max", OneOf(("max", "min")))

    def __post_init__(self) -> None:
        check_fields(self)

    def reached(self, value: float) -> bool:
        """Return whether `value` is at least as good as the target; False for NaN."""
        return value >= self.value if self.direction == "max" else value <= self.value


@dataclass
class Problem:
    """One instance of a task, ready to train.

    A step minimizes `loss(model(x), y)` for a pair (x, y) of `train`; see `call_model` for an x of several tensors. In
    synthetic problems, x is the gradient noise and the output of the model is the value of the surface.

    Args:
        model: Module to train.
        train: Training data: `Batches` or another stream, or a `DataLoader` of pairs (x, y). If the loader shuffles or
            augments, give it a generator seeded in `build`, so that the order depends only on the seed.
        loss: Function from (output, y) to the mean loss over the batch, a 0-d tensor, or to a pair (sum, count) of 0-d
            tensors, for means over other counts than the number of examples, such as the number of tokens. Or a mapping
            from the names of children of the model to loss functions: each child is then trained by an optimizer of its
            own, as in a GAN (see `Learner`).
        evaluation: Validation data, or None, for the evaluations during training and everything that is selected by
            them: settings, the best epoch, the end of training. Only epoch 0 is used.
        metrics: A mapping from names to functions. A function takes (output, y) and returns the *sum* of the metric
            over the batch, a 0-d tensor, or a pair (sum, count). For the accuracy, the sum is the number of correct
            predictions. Metric objects such as those of torchmetrics are also accepted; see `Learner`.
        evaluation_loss: Loss reported by the evaluation, with the signature of `loss`; None selects `loss`. For
            example, if training uses label smoothing, an evaluation by plain cross-entropy is comparable with runs
            without smoothing.
        callbacks: Callbacks of every fit of the problem, instances of `dashpot.training.Callback`.
        size: Function from (x, y) to the number of examples of a batch, for data in which it cannot be counted; see
            "How examples are counted" in docs/training.md.
        weight: Function from (output, y) to the count, a 0-d tensor, over which `loss` and `evaluation_loss` are
            means, such as the sum of the class weights. None selects the number of examples. A loss that returns a
            pair (sum, count) does not use it.
        splits: Further data by name, for `dashpot evaluate --split NAME` and `dashpot predict --split NAME`. The
            batches of the split "predict" are inputs x without targets. The names "train", "evaluation" and "test" are
            reserved.
        test: Test data, or None, on which comparisons judge methods; they are not used during training. Only epoch 0 is
            used.

    Raises:
        ArgumentError: If an argument has the wrong type, or a metric has the name "loss".
    """

    model: nn.Module
    train: Stream | DataLoader[Any]
    loss: Callable[[Any, Any], Any] | Mapping[str, Callable[[Any, Any], Any]]
    evaluation: Stream | DataLoader[Any] | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evaluation_loss: Callable[[Any, Any], Any] | Mapping[str, Callable[[Any, Any], Any]] | None = None
    callbacks: Sequence[Any] = ()
    size: Callable[[Any, Any], int] | None = None
    weight: Callable[[Any, Any], Tensor] | None = None
    splits: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    test: Stream | DataLoader[Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ArgumentError(f"Problem: model must be a torch.nn.Module, got {shown(self.model)}.")
        if not _is_source(self.train):
            raise ArgumentError(
                f"Problem: train must be Batches, another Stream or a DataLoader, got {shown(self.train)}."
            )
        if self.test is not None and not _is_source(self.test):
            raise ArgumentError(
                f"Problem: test must be Batches, another Stream, a DataLoader or None, got {shown(self.test)}."
            )
        if not isinstance(self.callbacks, Sequence) or isinstance(self.callbacks, str):
            raise ArgumentError(f"Problem: callbacks must be a sequence of callbacks, got {shown(self.callbacks)}.")
        _check_splits(self.splits)
        evaluation_loss = self.loss if self.evaluation_loss is None else self.evaluation_loss
        for name, function in {"loss": self.loss, "evaluation_loss": evaluation_loss}.items():
            functions = list(function.values()) if isinstance(function, Mapping) else [function]
            if not functions or not all(map(callable, functions)):
                raise ArgumentError(f"Problem: {name} must be a function of (output, target), got {shown(function)}.")
        self.metrics = checked_metrics(self.metrics, "Problem")
        for name, function, arguments in (("size", self.size, "x, y"), ("weight", self.weight, "output, y")):
            if function is not None and not callable(function):
                raise ArgumentError(
                    f"Problem: {name} must be a function of ({arguments}) or None, got {shown(function)}."
                )


def _is_source(data: Any) -> bool:
    return hasattr(data, "epoch") or hasattr(data, "__iter__")


def _check_splits(splits: Any) -> None:
    if not isinstance(splits, Mapping) or not all(isinstance(name, str) for name in splits):
        raise ArgumentError(f"Problem: splits must be a mapping of names to data, got {type(splits).__name__}.")
    for name, source in splits.items():
        if name in ("train", "evaluation", "test"):
            raise ArgumentError(
                "Problem: splits must have names other than 'train', 'evaluation' and 'test', which are arguments of "
                f"Problem, got {name!r}."
            )
        if not _is_source(source):
            got = type(source).__name__
            raise ArgumentError(
                f"Problem: splits[{name!r}] must be Batches, another Stream or a DataLoader, got {got}."
            )


@dataclass(frozen=True)
class Task:
    """A named training problem for the comparison of methods.

    Args:
        name: Name of the task in records and reports.
        build: Function from a seed, an integer in [0, 2**32 - 1], to a new `Problem`. The same seed gives the same
            problem, and torch's global random state is unchanged.
        epochs: Default number of epochs; >= 1.
        target: Target metric and value, or None.
        description: One-sentence description of the task.
        config: All settings that distinguish this task from others with the same name, such as the batch size, the
            options and the checksum of the data, as JSON-serializable data. `config` is part of every record.
        margin: Largest difference of the target metric (without target: of the score) that is practically irrelevant, a
            positive number, or None. Two methods are equivalent if the confidence interval of their difference lies
            between -margin and margin.

    Raises:
        ArgumentError: If an argument is out of range or has the wrong type.
    """

    name: str
    build: Callable[[int], Problem]
    epochs: int = field(dataclasses.MISSING, Interval(1, math.inf, "left", integer=True))
    target: Target | None = None
    description: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    margin: float | None = field(None, Optional(Interval(0)))

    def __post_init__(self) -> None:
        check_fields(self)
        if not isinstance(self.name, str) or not self.name:
            raise ArgumentError(f"Task: name must be a non-empty string, got {shown(self.name)}.")
        if not callable(self.build):
            raise ArgumentError(f"Task: build must be a function from a seed to a Problem, got {shown(self.build)}.")
        if not isinstance(self.target, (Target, type(None))):
            raise ArgumentError(f"Task: target must be a Target or None, got {shown(self.target)}.")
        try:
            json.dumps(self.config, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"Task: config must be plain JSON, got {shown(self.config)} ({error}).") from error
