"""Image classification tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data import Batches, seeded
from dashpot.data.hold_out import Part, Parts
from dashpot.tasks.evaluation import accuracy
from dashpot.tasks.task import Problem, Target, Task

_EVALUATION_BATCH = 512


def classification(
    parts: Parts,
    scale: Callable[[Tensor], Tensor] | None,
    network: Callable[[], nn.Module],
    *,
    name: str,
    batch_size: int,
    shuffle: bool,
    device: str,
    epochs: int,
    target: Target,
    margin: float,
    description: str,
    config: Mapping[str, Any],
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    augment_from: int = 0,
) -> Task:
    """Return a task that minimizes `loss` and reports cross-entropy and accuracy.

    The evaluation data are the validation examples, and the test data the test examples; without validation examples,
    the test examples are the evaluation data. All problems share one copy of the data on `device`. The seed of a
    problem determines the initial weights, the order of the images (with `shuffle`), and the random numbers of
    `augment`. The weights are the same on every device, since `network` draws them from torch's global CPU generator.

    Args:
        parts: Training, validation and test examples.
        scale: Function from float32 pixel values of shape (examples, 1, height, width) to the input of the network;
            None for networks whose input are images of unsigned bytes, without conversion to float32.
        network: Function that returns a newly initialized model.
        name: Name of the task in records and reports.
        batch_size: Number of images per training batch.
        shuffle: If True, draw a new order every epoch.
        device: Device of the data and the model.
        epochs: Default number of epochs.
        target: Target metric and value.
        margin: Largest irrelevant difference of the metric.
        description: One-sentence description of the task, in which `{examples}` is the number of training examples.
        config: Additional entries of `Task.config`.
        loss: Training loss, a function of (output, labels); evaluation reports plain cross-entropy.
        augment: Augmentation of training batches, as in `Batches`, or None.
        augment_from: Index of the first augmented epoch, counted from 0.
    """

    def tensors(part: Part) -> tuple[Tensor, Tensor]:
        labels = torch.tensor(part.labels, dtype=torch.int64, device=device)
        if scale is None:
            return torch.tensor(part.images, device=device), labels
        return scale(torch.tensor(part.images, dtype=torch.float32, device=device).unsqueeze(1)), labels

    train = tensors(parts.train)
    test = Batches(*tensors(parts.test), _EVALUATION_BATCH)
    validation = None if parts.validation is None else Batches(*tensors(parts.validation), _EVALUATION_BATCH)

    def build(seed: int) -> Problem:
        with seeded(seed):
            model = network().to(device)
        return Problem(
            model=model,
            train=Batches(
                *train,
                batch_size,
                shuffle=shuffle,
                seed=seed,
                augment=augment,
                augment_from=augment_from,
            ),
            evaluation=test if validation is None else validation,
            loss=loss,
            metrics={"accuracy": accuracy},
            evaluation_loss=None if loss is nn.functional.cross_entropy else nn.functional.cross_entropy,
            test=None if validation is None else test,
        )

    return Task(
        name=name,
        build=build,
        epochs=epochs,
        target=target,
        description=description.format(examples=_spaced(len(parts.train.labels))),
        config={
            "batch_size": batch_size,
            "shuffle": shuffle,
            "device": str(device),
            # records of runs on all training data have no such entry
            **({} if parts.validation is None else {"validation_size": len(parts.validation.labels)}),
            **config,
        },
        margin=margin,
    )


def _spaced(number: int) -> str:
    """Return a number as in the documentation: 1200 and 54 000."""
    return str(number) if number < 10_000 else f"{number:_}".replace("_", " ")
