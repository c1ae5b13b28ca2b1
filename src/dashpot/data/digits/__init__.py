"""Handwritten digits included in dashpot: 1797 images of 8 x 8 pixels. See NOTICE.md."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np

from dashpot.data.images import Images
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

__all__ = ["SHA256", "TRAIN_SIZE", "load"]

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""Checksum of the images followed by the labels, one byte per value."""

TRAIN_SIZE = 1500
"""Number of training images; the other 297 are for evaluation."""


def load() -> Images:
    """Load the Optical Recognition of Handwritten Digits test set of UCI, in its published order.

    The split is fixed: the first 1500 images are training data, and the last 297 are evaluation data. The labels repeat
    the pattern of one form about every 130 images, so most evaluation images come from forms without training images.
    The split is therefore harder than a random split: the nearest training image has the correct label for 94.6 % of
    the evaluation images, compared with 99 % after shuffling. The data set does not identify the writers.

    Returns:
        Images of shape (1500, 8, 8) and (297, 8, 8) with values 0 to 16, and their labels 0 to 9.

    Raises:
        DataError: If the installed file is damaged.

    >>> load().train_images.shape, load().eval_labels[:10]
    ((1500, 8, 8), array([1, 7, 4, 6, 3, 1, 3, 9, 1, 7], dtype=uint8))
    """
    source = resources.files(__name__) / "digits.npz"
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except Exception as error:
        raise DataError(f"{source} is damaged ({type(error).__name__}: {error}); reinstall dashpot.") from error
    actual = sha256(images.tobytes() + labels.tobytes())
    if actual != SHA256:
        raise DataError(f"{source} is damaged: expected sha256 {SHA256}, got {actual}; reinstall dashpot.")
    return Images(images[:TRAIN_SIZE], labels[:TRAIN_SIZE], images[TRAIN_SIZE:], labels[TRAIN_SIZE:])
