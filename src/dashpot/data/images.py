"""Data type of image data sets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Images(NamedTuple):
    """A labelled image data set of unsigned bytes, split into training and evaluation data.

    Images have the shape (examples, height, width) or, with colors, (examples, channels, height, width); labels have
    the shape (examples,). Arrays may be read-only.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray
