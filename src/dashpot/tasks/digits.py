"""The digits task: a small convolutional network on the 1797 digits shipped with dashpot."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dashpot.data import Batches, digits, seeded
from dashpot.tasks.evaluation import accuracy
from dashpot.tasks.options import check_options
from dashpot.tasks.task import Problem, Target, Task

__all__ = ["network", "task"]


def network() -> nn.Sequential:
    """The network: 14 538 parameters, input (N, 1, 8, 8), output (N, 10).

    Three blocks of 3 x 3 convolution, batch normalisation and ReLU, widening 1, 16, 32, 32, with a maximum over 2 x 2
    after the second and a mean over the rest after the third; then one linear layer. Initialised as torch does.
    """
    return nn.Sequential(
        *_block(1, 16), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 32), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 10)
    )


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def _scaled(images: np.ndarray, device: str) -> Tensor:
    """Pixel values 0 to 16 as float32 in [-1, 1], shape (N, 1, 8, 8)."""
    return torch.tensor(images, dtype=torch.float32, device=device).unsqueeze(1) / 8 - 1


def task(*, batch_size: int = 50, shuffle: bool = True, device: str = "cpu") -> Task:
    """Handwritten digits: cross-entropy and accuracy on 297 digits from mostly unseen forms. Needs no download.

    A run's seed decides the initial weights and, with `shuffle`, the order.

    Args:
        batch_size: images in a batch, at least 2; the 1500 training images make 30 batches of 50.
        shuffle: draw a new order every epoch.
        device: where the data and the model live.

    Raises:
        ArgumentError: an option is out of range.

    >>> problem = task().build(seed=0)
    >>> len(problem.train), sum(p.numel() for p in problem.model.parameters())
    (30, 14538)
    """
    check_options("digits", batch_size=batch_size, shuffle=shuffle, device=device)
    images = digits.load()
    train_x, eval_x = _scaled(images.train_images, device), _scaled(images.eval_images, device)
    train_y = torch.tensor(images.train_labels, dtype=torch.int64, device=device)
    eval_y = torch.tensor(images.eval_labels, dtype=torch.int64, device=device)

    def build(seed: int) -> Problem:
        with seeded(seed):
            model = network().to(device)
        return Problem(
            model=model,
            train=Batches(train_x, train_y, batch_size, shuffle=shuffle, seed=seed),
            evaluation=Batches(eval_x, eval_y, len(eval_x)),
            loss=F.cross_entropy,
            metrics={"accuracy": accuracy},
        )

    return Task(
        name="digits",
        build=build,
        epochs=12,
        target=Target("accuracy", 0.95, "max"),
        description="a convolutional network of 14 538 parameters on 1500 handwritten digits, 8 x 8, shipped with dashpot",
        config={"batch_size": batch_size, "shuffle": shuffle, "device": device, "data_sha256": digits.SHA256},
    )
