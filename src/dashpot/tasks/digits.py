"""Digits task: a small convolutional network on the 1797 digits included in dashpot."""

from __future__ import annotations

from torch import nn

from dashpot.data import digits
from dashpot.tasks.classification import classification
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task


def network() -> nn.Sequential:
    """Return the network: 14 538 parameters, input (N, 1, 8, 8), output (N, 10).

    Three blocks of 3 x 3 convolution, batch normalization and ReLU, with 1, 16, 32 and 32 channels, 2 x 2 max pooling
    after the second block and 4 x 4 average pooling after the third; then a linear layer. torch's default
    initialization, from its global generator.
    """
    features = (*_block(1, 16), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 32), nn.AvgPool2d(4))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32, 10))


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def task(*, batch_size: int = 50, shuffle: bool = True, device: str = "cpu") -> Task:
    """Return the digits task: cross-entropy and accuracy on 297 digits from mostly unseen forms, without download.

    Pixel values 0 to 16 are scaled to [-1, 1]. The seed determines the initial weights and, with `shuffle`, the order.

    Args:
        batch_size: Images per batch; >= 1. The 1500 training images give 30 batches of 50.
        shuffle: Draw a new order every epoch.
        device: Device of data and model.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the installed data file is damaged.

    Source: data set of `dashpot.data.digits.load`; the network is our own.

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
