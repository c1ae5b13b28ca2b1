"""Images as vectors for stacked networks: training, validation and test examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dashpot.data import digits, fashion_mnist
from dashpot.data.hold_out import Part, Parts, hold_out
from dashpot.data.seeding import generator
from dashpot.errors import DataError

VALIDATION = {"digits": 300, "fashion-mnist": 6000}
"""Numbers of held-out training images, those of the tasks."""


@dataclass(frozen=True)
class ImageVectors:
    """Normalized pixels of shape (examples, features) and labels of the three parts of a data set.

    Attributes:
        name: Name of the data set.
        remark: Sentence on the data for the settings of the page.
        train: Training pixels and labels.
        validation: Held-out training examples, for the choice of settings.
        test: Test examples, for the verdict.
    """

    name: str
    remark: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    def batches(self, seeds: Sequence[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches (seeds, size, features) and labels (seeds, size) in a new order every epoch.

        Args:
            seeds: One seed for each network; the order depends only on the seed.
            size: Number of examples per batch; incomplete batches are omitted.
        """
        generators = [generator("image vectors", seed) for seed in seeds]
        inputs, labels = self.train
        usable = len(labels) - len(labels) % size
        while True:
            orders = torch.stack([torch.randperm(len(labels), generator=g)[:usable] for g in generators])
            for index in orders.split(size, dim=1):
                yield inputs[index], labels[index]


def digit_images() -> ImageVectors:
    """Return the digits: 1200 training, 300 validation and 297 test images of 8 x 8 pixels.

    >>> [tuple(part[0].shape) for part in (digit_images().train, digit_images().validation, digit_images().test)]
    [(1200, 64), (300, 64), (297, 64)]
    """
    parts = hold_out("digits", digits.load(), VALIDATION["digits"], drawn_by=None)
    return _vectors("digits", "1200 training digits, 8 x 8", parts, pool=1)


def clothes_or_digits(*, quick: bool) -> ImageVectors:
    """Return Fashion-MNIST, averaged to 14 x 14 pixels, or the digits if `quick` or if it is not available."""
    if quick:
        return digit_images()
    try:
        images = fashion_mnist.load()
    except DataError as error:
        found = digit_images()
        remark = f"digits instead of Fashion-MNIST: {error}"
        return ImageVectors(found.name, remark, found.train, found.validation, found.test)
    parts = hold_out("fashion-mnist", images, VALIDATION["fashion-mnist"], drawn_by="fashion-mnist")
    return _vectors("fashion-mnist", "54 000 training images of Fashion-MNIST, averaged to 14 x 14", parts, pool=2)


def _vectors(name: str, remark: str, parts: Parts, pool: int) -> ImageVectors:
    """Return the parts with the mean 0 and the variance 1 of all training pixels."""
    train, validation, test = (
        _pooled(part, pool) for part in (parts.train, parts.validation, parts.test) if part is not None
    )
    mean, sd = train[0].mean(), train[0].std()
    scaled = [((pixels - mean) / sd, labels) for pixels, labels in (train, validation, test)]
    return ImageVectors(name, remark, *scaled)


def _pooled(part: Part, pool: int) -> tuple[Tensor, Tensor]:
    pixels = nn.functional.avg_pool2d(torch.tensor(part.images, dtype=torch.float32)[:, None], pool)
    return pixels.flatten(1), torch.tensor(part.labels, dtype=torch.int64)
