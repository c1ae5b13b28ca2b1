"""The digits shipped with dashpot: 1797 real handwritten digits, 8 x 8, needing no download. See NOTICE.md."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np

from dashpot.data.images import Images
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

__all__ = ["SHA256", "TRAIN_SIZE", "load"]

SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
"""The checksum of the images followed by the labels, one byte a value."""

TRAIN_SIZE = 1500
"""Images in the training part; the other 297 are for evaluation."""


def load() -> Images:
    """The Optical Recognition of Handwritten Digits test set of UCI, in its published order.

    The split is fixed: the first 1500 images train, the last 297 evaluate. The labels repeat the pattern of one form
    about every 130 images, so most evaluation images come from forms that training never sees. They are harder than a
    random split: the nearest training image has the right digit for 94.6 % of them, and for 99 % after shuffling. The
    set does not record who wrote an image.

    Returns:
        Images of shape (1500, 8, 8) and (297, 8, 8) with values 0 to 16, and their labels 0 to 9.

    Raises:
        DataError: the installed file is damaged.

    >>> load().train_images.shape, load().eval_labels[:10]
    ((1500, 8, 8), array([1, 7, 4, 6, 3, 1, 3, 9, 1, 7], dtype=uint8))
    """
    source = resources.files(__name__) / "digits.npz"
    try:
        with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except Exception as error:
        raise DataError(f"{source} is damaged ({type(error).__name__}: {error}): install dashpot again.") from error
    actual = sha256(images.tobytes() + labels.tobytes())
    if actual != SHA256:
        raise DataError(f"{source} is damaged: expected sha256 {SHA256}, got {actual}; install dashpot again.")
    return Images(images[:TRAIN_SIZE], labels[:TRAIN_SIZE], images[TRAIN_SIZE:], labels[TRAIN_SIZE:])
