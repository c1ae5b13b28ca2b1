"""Digits task: a small convolutional network on the 1797 digits included in dashpot."""

from __future__ import annotations

from torch import nn

from dashpot.data import digits
from dashpot.data.hold_out import hold_out
from dashpot.tasks.classification import classification
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task

VALIDATION_SIZE = 300
"""Default number of training digits that are held out for validation."""


def network() -> nn.Sequential:
    """Return the network, which has 14 538 parameters, inputs of shape (N, 1, 8, 8) and outputs of shape (N, 10).

    The network consists of three blocks and a linear layer. Each block consists of a 3 x 3 convolution, batch
    normalization and ReLU; the numbers of channels are 1 (input), 16, 32 and 32. The second block is followed by 2 x 2
    max pooling, and the third block by 4 x 4 average pooling. The weights have torch's default initialization and are
    drawn from torch's global generator.
    """
    features = (*_block(1, 16), *_block(16, 32), nn.MaxPool2d(2), *_block(32, 32), nn.AvgPool2d(4))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(32, 10))


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def task(
    *, batch_size: int = 50, shuffle: bool = True, device: str = "cpu", validation_size: int = VALIDATION_SIZE
) -> Task:
    """Return the digits task, evaluated by cross-entropy and accuracy.

    The first `validation_size` of the 1500 training digits are the evaluation data, and the 297 evaluation digits are
    the test data. Most digits of both come from forms without training images, and both are equally hard: the nearest
    training image has the correct label for 95.0 % of the validation digits and 93.6 % of the test digits. For the last
    300 training digits, the share would be 99.3 %.

    The data are included in dashpot. Pixel values 0 to 16 are scaled to [-1, 1]. The seed determines the initial
    weights and, with `shuffle`, the order of the images.

    Args:
        batch_size: Number of images per batch; >= 1. The 1200 training images give 24 batches of 50.
        shuffle: If True, draw a new order every epoch.
        device: Device of the data and the model.
        validation_size: Number of training digits that are held out for validation, in [0, 1499]. With 0, all 1500
            digits are training data and the evaluation data are the test digits, without further test data.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the installed data file is damaged.

    Source: The data set is described in `dashpot.data.digits.load`; the network was designed for dashpot.

    >>> problem = task().build(seed=0)
    >>> len(problem.train), sum(p.numel() for p in problem.model.parameters())
    (24, 14538)
    """
    check_options("digits", batch_size=batch_size, shuffle=shuffle, device=device, validation_size=validation_size)
    parts = hold_out("digits", digits.load(), validation_size, drawn_by=None)
    return classification(
        parts,
        lambda pixels: pixels.div_(8).sub_(1),
        network,
        name="digits",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        epochs=12,
        target=Target("accuracy", 0.95, "max"),
        margin=0.01,
        description="a convolutional network of 14 538 parameters on {examples} handwritten digits, 8 x 8, "
        "in 10 classes",
        config={"data_sha256": digits.SHA256},
    )
