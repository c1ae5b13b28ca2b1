"""The digits task: a small convolutional network on the 1797 digits shipped with dashpot."""

from __future__ import annotations

from torch import nn

from dashpot.data import digits
from dashpot.tasks.classification import classification
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task

__all__ = ["network", "task"]


def network() -> nn.Sequential:
    """The network: 14 538 parameters, input (N, 1, 8, 8), output (N, 10).

    Three blocks of 3 x 3 convolution, batch normalisation and ReLU, widening 1, 16, 32, 32, with a maximum over 2 x 2
    after the second and a mean over the remaining 4 x 4 after the third; then one linear layer. Initialised as torch
    does, from its global generator.
    """
    features = (*_block(1, 16), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 32), nn.AvgPool2d(4))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32, 10))


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def task(*, batch_size: int = 50, shuffle: bool = True, device: str = "cpu") -> Task:
    """Handwritten digits: cross-entropy and accuracy on 297 digits from mostly unseen forms. Needs no download.

    Pixel values 0 to 16 are scaled to [-1, 1]. A run's seed decides the initial weights and, with `shuffle`, the order.

    Args:
        batch_size: images in a batch, at least 1; the 1500 training images make 30 batches of 50.
        shuffle: draw a new order every epoch.
        device: where the data and the model live.

    Raises:
        ArgumentError: an option is out of range.
        DataError: the installed data file is damaged.

    Source: the data set is described in `dashpot.data.digits.load`; the network is ours.

    >>> problem = task().build(seed=0)
    >>> len(problem.train), sum(p.numel() for p in problem.model.parameters())
    (30, 14538)
    """
    check_options("digits", batch_size=batch_size, shuffle=shuffle, device=device)
    return classification(
        digits.load(),
        lambda pixels: pixels.div_(8).sub_(1),
        network,
        name="digits",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        epochs=12,
        target=Target("accuracy", 0.95, "max"),
        description="a convolutional network of 14 538 parameters on 1500 handwritten digits, 8 x 8, in 10 classes",
        config={"data_sha256": digits.SHA256},
    )
