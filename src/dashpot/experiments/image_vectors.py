"""Images as vectors: Fashion-MNIST at 14 x 14 pixels, or the digits."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dashpot.data import digits, fashion_mnist
from dashpot.data.images import Images
from dashpot.errors import DataError


class ImageVectors(NamedTuple):
    """Images as rows.

    Attributes:
        inputs: Tensor (examples, pixels) with mean 0 for each pixel and standard deviation 1 over all pixels.
        labels: Tensor (examples,) of classes 0 to 9.
        test_inputs, test_labels: The same for the test images, with the statistics of the training images.
        description: Name of the data, and the reason for it.
    """

    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    description: str


@functools.cache
def image_vectors(*, small: bool) -> ImageVectors:
    """Return the images of Fashion-MNIST, or the digits if `small` or if Fashion-MNIST is not available.

    The 28 x 28 pixels of Fashion-MNIST are averaged over squares of 2 x 2.

    >>> data = image_vectors(small=True)
    >>> tuple(data.inputs.shape), data.description
    ((1500, 64), 'digits')
    """
    if small:
        return _digits("digits")
    try:
        data = fashion_mnist.load()
    except DataError as error:
        return _digits(f"digits in place of Fashion-MNIST: {error}")
    inputs = [_pooled(part) for part in (data.train_images, data.eval_images)]
    return _standardized(*inputs, data, "Fashion-MNIST, averaged to 14 x 14 pixels")


def _pooled(images: np.ndarray) -> Tensor:
    return torch.nn.functional.avg_pool2d(torch.tensor(images, dtype=torch.float32)[:, None], 2).flatten(1)


def _digits(description: str) -> ImageVectors:
    data = digits.load()
    parts = (data.train_images, data.eval_images)
    inputs = [torch.tensor(part.reshape(len(part), 64), dtype=torch.float32) for part in parts]
    return _standardized(*inputs, data, description)


def _standardized(train: Tensor, test: Tensor, data: Images, description: str) -> ImageVectors:
    mean = train.mean(0)
    deviation = (train - mean).std()
    labels = [torch.tensor(part, dtype=torch.int64) for part in (data.train_labels, data.eval_labels)]
    return ImageVectors((train - mean) / deviation, labels[0], (test - mean) / deviation, labels[1], description)
