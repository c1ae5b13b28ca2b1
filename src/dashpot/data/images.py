"""The shape in which every image data set of dashpot arrives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Images"]


class Images(NamedTuple):
    """A labelled image data set as it was published: unsigned bytes, split into training and evaluation.

    Images have shape (examples, height, width), labels (examples,). The arrays may be read-only.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray
