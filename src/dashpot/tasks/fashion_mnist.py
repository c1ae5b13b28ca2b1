"""Fashion-MNIST task: a small convolutional network on 60 000 images of clothes."""

from __future__ import annotations

import math
import os
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from dashpot.data import fashion_mnist, generator
from dashpot.data.hold_out import hold_out
from dashpot.tasks.classification import classification
from dashpot.tasks.norm import DetachedBatchNorm2d
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task

SLOPE = 0.1
"""Default negative slope of the leaky ReLU. The initialization of the weights uses the same slope."""

VALIDATION_SIZE = 6000
"""Default number of training images that are held out for validation."""

_WIDTHS = (1, 8, 16, 32, 64)


def network(leak: float = SLOPE) -> nn.Sequential:
    """Return the network, which has 30 522 parameters, inputs of shape (N, 1, 28, 28) and outputs of shape (N, 10).

    The network consists of four blocks and a 3 x 3 convolution to ten classes. Each block consists of a convolution,
    leaky ReLU and `DetachedBatchNorm2d`; the numbers of channels are 1 (input), 8, 16, 32 and 64. All convolutions have
    stride 2; the first is 5 x 5 with padding 2, and the others are 3 x 3 with padding 1. Convolution weights have the
    Kaiming normal initialization for the slope `leak` of the leaky ReLU, with standard deviation
    sqrt(2 / (1 + leak^2) / fan_in), and biases have torch's default initialization. Both are drawn from torch's global
    generator.
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
        kernel = 5 if index == 0 else 3
        layers += [_convolution(inputs, outputs, kernel, leak), nn.LeakyReLU(leak), DetachedBatchNorm2d(outputs)]
    return nn.Sequential(*layers, _convolution(_WIDTHS[-1], 10, 3, leak), nn.Flatten())


def _convolution(inputs: int, outputs: int, kernel: int, leak: float) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=leak)
    return layer


def statistics(images: np.ndarray) -> tuple[float, float]:
    """Return the mean and standard deviation of the pixels of 100 images, scaled to [0, 1].

    The images are drawn with a fixed seed, so the normalization is the same in every run. Sums of integers are exact,
    so the results are the same on every machine.
    """
    chosen = torch.randperm(len(images), generator=generator("fashion-mnist statistics"))[:100]
    pixels = images[chosen.numpy()].astype(np.int64)
    mean = int(pixels.sum()) / pixels.size
    variance = (int((pixels**2).sum()) - pixels.size * mean**2) / (pixels.size - 1)
    return mean / 255, math.sqrt(variance) / 255


def task(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 512,
    shuffle: bool = False,
    device: str = "cpu",
    validation_size: int = VALIDATION_SIZE,
    leak: float = SLOPE,
) -> Task:
    """Return the Fashion-MNIST task, evaluated by cross-entropy and accuracy.

    The evaluation data are `validation_size` of the 60 000 training images, and the test data the 10 000 test images.

    Images are scaled to [0, 1] and normalized by the `statistics` of 100 training images; there is no augmentation. An
    epoch has 106 steps with up to 512 images each. The seed determines the initial weights and, with `shuffle`, the
    order of the images. All problems share one float32 copy of the data (220 MB).

    Args:
        data_dir: Data folder to search first; see `dashpot.data.fashion_mnist.load`.
        batch_size: Number of images per batch; >= 1.
        shuffle: If True, draw a new order every epoch. The published experiment does not shuffle.
        device: Device of the data and the model.
        validation_size: Number of training images that are held out for validation, in [0, 59999]. The choice is random
            and fixed. With 0, all 60 000 images are training data and the evaluation data are the test images, without
            further test data, as in the published experiment.
        leak: Negative slope of the leaky ReLU, in [0, 1); the initialization of the weights uses the same slope.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the data set is damaged, or is not found and cannot be downloaded.

    Source: The optimizer comparison in the SlowAI notebooks (part 10), which uses the same model and data.
    """
    check_options(
        "fashion-mnist",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        leak=leak,
        validation_size=validation_size,
    )
    parts = hold_out("fashion-mnist", fashion_mnist.load(data_dir), validation_size, drawn_by="fashion-mnist")
    mean, std = statistics(parts.train.images)
    return classification(
        parts,
        lambda pixels: pixels.div_(255).sub_(mean).div_(std),
        partial(network, leak),
        name="fashion-mnist",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        epochs=3,
        target=Target("accuracy", 0.85, "max"),
        margin=0.003,
        description="a convolutional network of 30 522 parameters on {examples} images of clothes, 28 x 28, "
        "in 10 classes",
        config={
            "mean": mean,
            "std": std,
            **({} if leak == SLOPE else {"leak": leak}),  # records of the default task have no such entry
            "data_sha256": {file.name: file.sha256 for file in fashion_mnist.DATASET.files.values()},
        },
    )
