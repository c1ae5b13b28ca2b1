"""The common shape of the image classification tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data import Batches, Images, seeded
from dashpot.tasks.evaluation import accuracy
from dashpot.tasks.task import Problem, Target, Task

__all__ = ["classification"]

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
    """A task that learns the labels of `images` by `loss` and measures cross-entropy and accuracy.

    The tensors are made once, on `device`, and shared by every problem. The seed of a problem decides the weights that
    `network` draws from torch's global generator (on the CPU, so that they are the same on every device), with
    `shuffle` the order of the images, and with `augment` what becomes of them.

    Args:
        images: the data set.
        scale: maps pixel values as float32, shape (examples, 1, height, width), to the network's input.
        network: makes the freshly initialised model.
        name: what records and reports call the task; the other arguments are those of `Batches` and `Task`.
        loss: what training lowers, a function of (output, labels); evaluation reports plain cross-entropy.
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
