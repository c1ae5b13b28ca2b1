"""The Fashion-MNIST task: a small convolutional network on 60 000 images of clothes."""

from __future__ import annotations

import math
import os
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from dashpot.data import fashion_mnist, generator
from dashpot.tasks.classification import classification
from dashpot.tasks.norm import DetachedBatchNorm2d
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.task import Target, Task

__all__ = ["SLOPE", "network", "statistics", "task"]

SLOPE = 0.1
"""The slope of the leaky ReLU for negative input, and of the initialisation that goes with it."""

_WIDTHS = (1, 8, 16, 32, 64)


def network() -> nn.Sequential:
    """The network: 30 522 parameters, input (N, 1, 28, 28), output (N, 10).

    Four blocks of convolution (stride 2; 5 x 5 with padding 2, then 3 x 3 with padding 1), leaky ReLU and
    `DetachedBatchNorm2d`, widening 1, 8, 16, 32, 64; then a 3 x 3 convolution to the ten classes. Convolution weights
    are drawn from Kaiming's normal distribution for the slope, biases as torch draws them, both from torch's global
    generator.
    """
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(_WIDTHS)):
        kernel = 5 if index == 0 else 3
        layers += [_convolution(inputs, outputs, kernel), nn.LeakyReLU(SLOPE), DetachedBatchNorm2d(outputs)]
    return nn.Sequential(*layers, _convolution(_WIDTHS[-1], 10, 3), nn.Flatten())


def _convolution(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    return layer


def statistics(images: np.ndarray) -> tuple[float, float]:
    """The mean and the standard deviation of the pixels, scaled to [0, 1], of 100 images.

    The 100 are drawn at random once and for all, so that every run, whatever its seed, sees the same data. Sums of
    integers are exact: the two numbers are the same on every machine.
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
) -> Task:
    """Clothes in 10 classes: cross-entropy and accuracy on the 10 000 test images.

    Images are scaled to [0, 1] and normalised by the `statistics` of 100 training images; the last batch of an epoch
    holds what remains (118 steps of up to 512 images); there is no augmentation. A run's seed decides the initial
    weights and, with `shuffle`, the order. The data are held once, as float32 (220 MB), whatever the number of problems
    built.

    Args:
        data_dir: a folder to look for the data in first, see `dashpot.data.fashion_mnist.load`.
        batch_size: images in a batch, at least 1.
        shuffle: draw a new order every epoch. Off by default, as in the published experiment.
        device: where the data and the model live.

    Raises:
        ArgumentError: an option is out of range.
        DataError: the data set is damaged, or is neither here nor to be downloaded.

    Source: the optimizer comparison of the SlowAI notebooks (part 10), whose model and data this repeats.
    """
    check_options("fashion-mnist", batch_size=batch_size, shuffle=shuffle, device=device)
    images = fashion_mnist.load(data_dir)
    mean, std = statistics(images.train_images)
    return classification(
        images,
        lambda pixels: pixels.div_(255).sub_(mean).div_(std),
        network,
        name="fashion-mnist",
        batch_size=batch_size,
        shuffle=shuffle,
        device=device,
        epochs=3,
        target=Target("accuracy", 0.85, "max"),
        description="a convolutional network of 30 522 parameters on 60 000 images of clothes, 28 x 28, in 10 classes",
        config={
            "mean": mean,
            "std": std,
            "data_sha256": {file.name: file.sha256 for file in fashion_mnist.DATASET.files.values()},
        },
    )
