"""In-memory data sets: search, download, verification and decoding of the data files, and batches."""

from __future__ import annotations

from dashpot.data import cifar10, digits, fashion_mnist
from dashpot.data.batches import Batches, Stream
from dashpot.data.images import Images
from dashpot.data.seeding import SEED, generator, seeded

__all__ = ["SEED", "Batches", "Images", "Stream", "cifar10", "digits", "fashion_mnist", "generator", "seeded"]
