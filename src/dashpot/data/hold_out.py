"""Validation examples, held out from the training data of an image data set."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from dashpot.constraints import Interval, check
from dashpot.data.images import Images
from dashpot.data.seeding import generator


class Part(NamedTuple):
    """Images of a data set, in the shape of `Images`, and their labels of shape (examples,)."""

    images: np.ndarray
    labels: np.ndarray


class Parts(NamedTuple):
    """Training, validation and test examples; `validation` is None if no examples are held out."""

    train: Part
    validation: Part | None
    test: Part


def hold_out(owner: str, images: Images, size: int, *, drawn_by: str | None) -> Parts:
    """Return the parts of a data set, with `size` of its training examples as validation examples.

    The other training examples keep their order. The published evaluation examples are the test examples. No seed
    changes the choice.

    Args:
        owner: Name of the task, for the error message.
        images: The data set.
        size: Number of validation examples, in [0, number of training examples).
        drawn_by: Name of the data set for `drawn_rows`; None takes the first training examples.

    Raises:
        ArgumentError: If `size` is out of range.

    >>> pixels = np.zeros((6, 1, 1), np.uint8)
    >>> parts = hold_out("doc", Images(pixels[:4], np.arange(4), pixels[4:], np.arange(2)), 1, drawn_by=None)
    >>> parts.train.labels, parts.validation.labels, parts.test.labels
    (array([1, 2, 3]), array([0]), array([0, 1]))
    """
    count = len(images.train_labels)
    check(owner, "validation_size", size, Interval(0, count, "left", integer=True))
    train, test = Part(images.train_images, images.train_labels), Part(images.eval_images, images.eval_labels)
    if size == 0:
        return Parts(train, None, test)
    held = np.zeros(count, bool)
    held[slice(size) if drawn_by is None else drawn_rows(drawn_by, count, size)] = True
    kept, validation = (Part(train.images[rows], train.labels[rows]) for rows in (~held, held))
    return Parts(kept, validation, test)


def drawn_rows(name: str, examples: int, size: int) -> np.ndarray:
    """Return the increasing indices of `size` of `examples` examples, drawn without replacement.

    The choice depends only on `name` and `examples`; a smaller choice is a subset of a larger one.

    >>> drawn_rows("doc", 10, 3), drawn_rows("doc", 10, 4)
    (array([2, 4, 7]), array([2, 4, 5, 7]))
    """
    order = torch.randperm(examples, generator=generator(f"{name} validation"))
    return np.sort(order[:size].numpy())
