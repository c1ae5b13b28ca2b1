"""CIFAR-10 task: a residual network or a vision transformer on color images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dashpot.data import augment, cifar10
from dashpot.data.hold_out import Part, Parts, hold_out
from dashpot.tasks.classification import classification
from dashpot.tasks.option_checks import check_options
from dashpot.tasks.resnet import RESNET18, ResNet, ResNetSize
from dashpot.tasks.task import Target, Task
from dashpot.tasks.vit import ViT, ViTSize

PADDING = 4
"""Largest shift of a training image in pixels."""


@dataclass(frozen=True)
class ImageTier:
    """Size of the network and length of the training.

    Args:
        size: Size of the network.
        batch_size: Number of images per batch.
        epochs: Number of epochs.
        accuracy: Target accuracy on the validation data.
        margin: Largest irrelevant difference of accuracies, about one standard error on the test data.
        train: Number of training images; None for all images.
        test: Number of test images; None for all images.
        validation_size: Number of training images that are held out for validation.
    """

    size: ResNetSize | ViTSize
    batch_size: int
    epochs: int
    accuracy: float
    margin: float
    train: int | None = None
    test: int | None = None
    validation_size: int = 5000


TIERS: Mapping[str, Mapping[str, ImageTier]] = {
    "resnet": {
        "smoke": ImageTier(ResNetSize((8, 16), 1, stem=2), 64, 3, 0.2, 0.02, train=960, test=500, validation_size=500),
        "cpu": ImageTier(ResNetSize((32, 64, 128), 1, stem=2), 64, 3, 0.55, 0.005, train=15_000),
        "gpu": ImageTier(RESNET18, 128, 200, 0.95, 0.003),
    },
    "vit": {
        "smoke": ImageTier(ViTSize(2, 2, 16, patch=8), 64, 3, 0.2, 0.02, train=960, test=500, validation_size=500),
        "cpu": ImageTier(ViTSize(4, 4, 96, patch=8), 64, 3, 0.35, 0.005, train=15_000),
        "gpu": ImageTier(ViTSize(12, 8, 256), 100, 150, 0.85, 0.003),
    },
}
"""The settings of the AutoSGM experiments (batch sizes and epochs), and smaller ones, by network and tier."""


class Normalization(nn.Module):
    """Conversion of unsigned bytes to float32 values of mean 0 and standard deviation 1 per channel.

    Args:
        mean: Mean of each channel on the scale of the bytes.
        std: Standard deviation of each channel on the scale of the bytes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel of bytes of shape (examples, channels, height, width).

    Sums of integers are exact, so the results are the same on every machine.

    >>> statistics(np.array([[[[0, 2]], [[4, 4]]]], dtype=np.uint8))
    ((1.0, 4.0), (1.0, 0.0))
    """
    values = np.arange(256)
    counts = np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])])
    pixels = images[:, 0].size
    means = [int(total) / pixels for total in counts @ values]
    squares = [int(total) / pixels for total in counts @ values**2]
    stds = [max(0.0, square - mean**2) ** 0.5 for mean, square in zip(means, squares, strict=True)]
    return tuple(means), tuple(stds)


def changed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return training images, randomly flipped, padded with black pixels and cropped."""
    return augment.crop(augment.flip(images, generator), generator, PADDING)


def task(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    network: str = "resnet",
    tier: str = "cpu",
    batch_size: int | None = None,
    shuffle: bool = True,
    device: str = "cpu",
    validation_size: int | None = None,
    checksum: bool = True,
) -> Task:
    """Return the CIFAR-10 task, evaluated by cross-entropy and accuracy.

    The evaluation data are `validation_size` of the 50 000 training images, and the test data the 10 000 test images.
    The tiers smoke and cpu use the first of the other training images in the published order, and the tier smoke
    the first test images.

    Each training image is flipped horizontally with probability 1/2, padded by 4 black pixels on each side, and
    cropped at a random position; evaluation uses the original images. The first layer of the model normalizes the
    images by the mean and standard deviation of each channel of the training images. The seed determines the initial
    weights, the augmentation and, with `shuffle`, the order of the images. All problems share one copy of the data
    in unsigned bytes (180 MB).

    Args:
        data_dir: Data folder to search first; see `dashpot.data.cifar10.load`.
        network: "resnet" or "vit".
        tier: "smoke", "cpu" or "gpu": size of the network and length of the training. The tier gpu is the published
            setting: ResNet-18, or a vision transformer of 9.5 million parameters.
        batch_size: Number of images per batch; >= 1. None selects that of the tier.
        shuffle: If True, draw a new order every epoch.
        device: Device of the data and the model.
        validation_size: Number of training images that are held out for validation, in [0, 49999]; None selects that of
            the tier. The choice is random and fixed. With 0, the evaluation data are the test images, without further
            test data, as in most published experiments.
        checksum: If False, accept files of images in the user's data folder that differ from the published ones. The
            checksums of the files are part of `Task.config`.

    Raises:
        ArgumentError: If an option is out of range.
        DataError: If the data set is damaged, or is not found and cannot be downloaded.
    """
    given = {"batch_size": batch_size, "validation_size": validation_size}
    given = {name: value for name, value in given.items() if value is not None}
    check_options("cifar10", network=network, tier=tier, shuffle=shuffle, checksum=checksum, device=device, **given)
    chosen = TIERS[network][tier]
    images, checksums = cifar10.load_with_checksums(data_dir, checksum=checksum)
    held = chosen.validation_size if validation_size is None else validation_size
    parts = _shortened(hold_out("cifar10", images, held, drawn_by="cifar10"), chosen)
    mean, std = statistics(parts.train.images)
    size = chosen.size

    def model() -> nn.Sequential:
        return nn.Sequential(Normalization(mean, std), ResNet(size) if isinstance(size, ResNetSize) else ViT(size))

    return classification(
        parts,
        None,
        model,
        name="cifar10",
        batch_size=chosen.batch_size if batch_size is None else batch_size,
        shuffle=shuffle,
        device=device,
        epochs=chosen.epochs,
        target=Target("accuracy", chosen.accuracy, "max"),
        margin=chosen.margin,
        description=f"{_describe(size)} on {{examples}} color images, 32 x 32, in 10 classes",
        config={
            "network": network,
            "tier": tier,
            "train_size": len(parts.train.labels),
            "mean": list(mean),
            "std": list(std),
            "mirror": 0.5,
            "padding": PADDING,
            "data_sha256": dict(checksums),
        },
        augment=changed,
    )


def _shortened(parts: Parts, tier: ImageTier) -> Parts:
    return parts._replace(train=_first(parts.train, tier.train), test=_first(parts.test, tier.test))


def _first(part: Part, count: int | None) -> Part:
    return Part(part.images[:count], part.labels[:count])


def _describe(size: ResNetSize | ViTSize) -> str:
    if isinstance(size, ResNetSize):
        return f"a residual network of {len(size.widths) * size.blocks} blocks"
    return f"a vision transformer of {size.layers} blocks"
