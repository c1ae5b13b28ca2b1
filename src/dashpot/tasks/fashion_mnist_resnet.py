"""Fashion-MNIST task with a small residual network, random flips and label smoothing."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from dashpot.data import augment, fashion_mnist
from dashpot.data.hold_out import hold_out
from dashpot.tasks.classification import classification
from dashpot.tasks.fashion_mnist import VALIDATION_SIZE, statistics
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task

SMOOTHING = 0.1
"""Label smoothing of the training loss."""

_WIDTH = 64


class MirroredSequential(nn.Sequential):
    """Layers in sequence; in evaluation mode, the mean of the outputs of an image and of its mirror image.

    In evaluation mode, the output is (f(x) + f(mirror x))/2 with the mirror image along the last dimension, and is
    therefore exactly invariant to horizontal flips. In training mode, it is f(x).
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return super().forward(input)
        return (super().forward(input) + super().forward(input.flip(-1))) / 2


def network() -> MirroredSequential:
    """Return the network, which has 464 874 parameters, inputs of shape (N, 1, 28, 28) and outputs of shape (N, 10).

    The layers are: a convolution to 32 channels at 28 x 28; a convolution with stride 2 to 64 channels at 14 x 14; a
    residual block; a convolution with stride 2 to 128 channels at 7 x 7; a residual block; concatenated global max and
    average pooling; a linear layer. Every convolution is 3 x 3 without bias and is followed by batch normalization and,
    except for the last one of a residual block, by ReLU. The weight of the last normalization of a residual block is
    initialized to zero, so that the block initially has the output ReLU(input). All other weights have torch's default
    initialization and are drawn from torch's global generator. In evaluation mode, the outputs of an image and of its
    mirror image are averaged.
    """
    return MirroredSequential(
        _ChannelsLast(),
        *_convolution(1, _WIDTH // 2),
        *_convolution(_WIDTH // 2, _WIDTH, stride=2),
        _Residual(_WIDTH),
        *_convolution(_WIDTH, 2 * _WIDTH, stride=2),
        _Residual(2 * _WIDTH),
        _Pool(),
        nn.Linear(4 * _WIDTH, 10),
    )


class _Residual(nn.Module):
    """Residual block: the ReLU of the sum of the input and the output of a branch with two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels)[:-1])
        nn.init.zeros_(self.branch[-1].weight)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


class _Pool(nn.Module):
    """Concatenated global max and average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1)


class _ChannelsLast(nn.Module):
    """Conversion to channels-last memory format, which makes convolutions on a CPU about a third faster."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def smoothed_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Return the training loss: cross-entropy with label smoothing `SMOOTHING`."""
    return nn.functional.cross_entropy(output, labels, label_smoothing=SMOOTHING)


def task(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    shuffle: bool = True,
    device: str = "cpu",
    validation_size: int = VALIDATION_SIZE,
) -> Task:
    """Return the task that trains a residual network on Fashion-MNIST.

    The evaluation data are `validation_size` of the 60 000 training images, and the test data the 10 000 test images.

    Images are scaled and normalized as in the task `fashion-mnist`. Starting with the second epoch, each training image
    is flipped horizontally with probability 1/2, independently in every epoch; without flips, the first epoch learns
    faster. Training minimizes `smoothed_cross_entropy`; evaluation reports plain cross-entropy and accuracy. The seed
    determines the initial weights, the flips and, with `shuffle`, the order of the images. All problems share one
    float32 copy of the data (220 MB).

    Args:
        data_dir: Data folder to search first; see `dashpot.data.fashion_mnist.load`.
        batch_size: Number of images per batch; >= 1.
        shuffle: If True, draw a new order every epoch.
        device: Device of the data and the model.
        validation_size: Number of training images that are held out for validation, in [0, 59999]. The choice is random
            and fixed. With 0, all 60 000 images are training data and the evaluation data are the test images, without
            further test data.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the data set is damaged, or is not found and cannot be downloaded.
    """
    check_options(
        "fashion-mnist-resnet", batch_size=batch_size, shuffle=shuffle, device=device, validation_size=validation_size
    )
    parts = hold_out("fashion-mnist-resnet", fashion_mnist.load(data_dir), validation_size, drawn_by="fashion-mnist")
    mean, std = statistics(parts.train.images)
    return classification(
        parts,
        lambda pixels: pixels.div_(255).sub_(mean).div_(std),
        network,
        name="fashion-mnist-resnet",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        epochs=6,
        target=Target("accuracy", 0.935, "max"),
        margin=0.003,
        description="a residual network of 464 874 parameters on {examples} images of clothes, 28 x 28, in 10 classes",
        config={
            "mean": mean,
            "std": std,
            "mirror": 0.5,
            "mirror_from": 1,
            "label_smoothing": SMOOTHING,
            "data_sha256": {file.name: file.sha256 for file in fashion_mnist.DATASET.files.values()},
        },
        loss=smoothed_cross_entropy,
        augment=augment.flip,
        augment_from=1,
    )
