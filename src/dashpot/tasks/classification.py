"""Image classification tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data import Batches, Images, seeded
from dashpot.tasks.evaluation import accuracy
from dashpot.tasks.task import Problem, Target, Task

_EVALUATION_BATCH = 512


def classification(
    images: Images,
    scale: Callable[[Tensor], Tensor],
    network: Callable[[], nn.Module],
    *,
    name: str,
    batch_size: int,
    shuffle: bool,
    device: str,
    epochs: int,
    target: Target,
    description: str,
    config: Mapping[str, Any],
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    augment_from: int = 0,
) -> Task:
    """Return a task that minimizes `loss` and reports cross-entropy and accuracy.

    All problems share one copy of the data on `device`. The seed of a problem determines the initial weights, the order
    of the images (with `shuffle`), and the random numbers of `augment`. The weights are the same on every device, since
    `network` draws them from torch's global CPU generator.

    Args:
        images: The data set.
        scale: Function from float32 pixel values of shape (examples, 1, height, width) to the input of the network.
        network: Function that returns a newly initialized model.
        name: Name of the task in records and reports.
        batch_size: Number of images per training batch.
        shuffle: If True, draw a new order every epoch.
        device: Device of the data and the model.
        epochs: Default number of epochs.
        target: Target metric and value.
        description: One-sentence description of the task.
        config: Additional entries of `Task.config`.
        loss: Training loss, a function of (output, labels); evaluation reports plain cross-entropy.
        augment: Augmentation of training batches, as in `Batches`, or None.
        augment_from: Index of the first augmented epoch, counted from 0.
    """
    inputs = [
        scale(torch.tensor(pixels, dtype=torch.float32, device=device).unsqueeze(1))
        for pixels in (images.train_images, images.eval_images)
    ]
    labels = [
        torch.tensor(label, dtype=torch.int64, device=device) for label in (images.train_labels, images.eval_labels)
    ]

    def build(seed: int) -> Problem:
        with seeded(seed):
            model = network().to(device)
        return Problem(
            model=model,
            train=Batches(
                inputs[0],
                labels[0],
                batch_size,
                shuffle=shuffle,
                seed=seed,
                augment=augment,
                augment_from=augment_from,
            ),
            evaluation=Batches(inputs[1], labels[1], _EVALUATION_BATCH),
            loss=loss,
            metrics={"accuracy": accuracy},
            evaluation_loss=None if loss is nn.functional.cross_entropy else nn.functional.cross_entropy,
        )

    return Task(
        name=name,
        build=build,
        epochs=epochs,
        target=target,
        description=description,
        config={"batch_size": batch_size, "shuffle": shuffle, "device": str(device), **config},
    )
