"""Images as vectors for stacked networks: Fashion-MNIST at 14 x 14 pixels, or the digits."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from dashpot.analysis.wording import number
from dashpot.data import digits, fashion_mnist
from dashpot.data.hold_out import Part, Parts, hold_out
from dashpot.data.seeding import generator
from dashpot.errors import DataError
from dashpot.experiments.stacked_network import index_batches

VALIDATION = {"digits": 300, "fashion-mnist": 6000}
"""Numbers of held-out training images, those of the tasks."""


@dataclass(frozen=True)
class ImageVectors:
    """Normalized pixels of shape (examples, features) and labels of shape (examples,), of the parts of a data set.

    Attributes:
        name: Name of the data set.
        remark: Description of the data for the settings of the page.
        train: Training pixels and labels.
        validation: Held-out training examples, for the choice of settings; empty if none are held out.
        test: Test examples, for the verdict.
    """

    name: str
    remark: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def features(self) -> int:
        """Number of pixels of an image."""
        return self.train[0].shape[1]

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches (seeds, size, features) and labels (seeds, size) in a new order every epoch.

        Args:
            seeds: One seed for each network; the order depends only on the seed.
            size: Number of examples per batch; incomplete batches are omitted.
        """
        generators = [generator("image vectors", seed) for seed in seeds]
        inputs, labels = self.train
        while True:
            for index in index_batches(generators, len(labels), size):
                yield inputs[index], labels[index]


@functools.cache
def digit_images(*, held_out: bool = True, each_pixel: bool = False) -> ImageVectors:
    """Return the digits, 8 x 8 pixels: 1500 training images, 300 of them held out, and 297 test images.

    Args:
        held_out: Whether validation examples are held out of the training images.
        each_pixel: Whether each pixel has mean 0 over the training images, instead of all pixels together.

    >>> data = digit_images()
    >>> [tuple(part[0].shape) for part in (data.train, data.validation, data.test)]
    [(1200, 64), (300, 64), (297, 64)]
    """
    parts = hold_out("digits", digits.load(), VALIDATION["digits"] * held_out, drawn_by=None)
    remark = f"{number(len(parts.train.labels), 4)} training digits, 8 x 8"
    return _vectors("digits", remark, parts, each_pixel, pool=1)


def clothes_or_digits(*, quick: bool, held_out: bool = True, each_pixel: bool = False) -> ImageVectors:
    """Return Fashion-MNIST, averaged to 14 x 14 pixels, or the digits if `quick` or if it is not available.

    Args:
        quick: Whether to return the digits.
        held_out, each_pixel: As for `digit_images`; of Fashion-MNIST, 6000 of 60 000 training images are held out.
    """
    if quick:
        return digit_images(held_out=held_out, each_pixel=each_pixel)
    try:
        images = fashion_mnist.load()
    except DataError as error:
        found = digit_images(held_out=held_out, each_pixel=each_pixel)
        return replace(found, remark=f"digits instead of Fashion-MNIST: {error}")
    parts = hold_out("fashion-mnist", images, VALIDATION["fashion-mnist"] * held_out, drawn_by="fashion-mnist")
    remark = f"{number(len(parts.train.labels), 5)} training images of Fashion-MNIST, averaged to 14 x 14"
    return _vectors("fashion-mnist", remark, parts, each_pixel, pool=2)


def _vectors(name: str, remark: str, parts: Parts, each_pixel: bool, pool: int) -> ImageVectors:
    """Return the parts, normalized by the mean and the standard deviation of the training pixels."""
    train = _pooled(parts.train.images, pool)
    mean = train.mean(0) if each_pixel else train.mean()
    sd = (train - mean).std() if each_pixel else train.std()

    def scaled(part: Part) -> tuple[Tensor, Tensor]:
        return (_pooled(part.images, pool) - mean) / sd, torch.tensor(part.labels, dtype=torch.int64)

    validation = parts.validation or Part(parts.train.images[:0], parts.train.labels[:0])
    return ImageVectors(name, remark, scaled(parts.train), scaled(validation), scaled(parts.test))


def _pooled(images: np.ndarray, pool: int) -> Tensor:
    return nn.functional.avg_pool2d(torch.tensor(images, dtype=torch.float32)[:, None], pool).flatten(1)
