"""Training of deep networks with an initialization, with or without normalization, under a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dashpot.data.seeding import generator
from dashpot.experiments.deep_network import DeepNetwork, layer_statistics, scale_layers
from dashpot.experiments.image_vectors import ImageVectors
from dashpot.experiments.stacked_network import accuracies, index_batches
from dashpot.optimizers.torch_compatible import AdamW
from dashpot.schedules import Constant, OneCycle, Schedule, from_name

HIDDEN = (64,) * 10
BATCH = 128
TRAINING, VALIDATION = 12_000, 4000
"""Numbers of training images, and of training images on which rates are selected."""
SCHEDULES: Mapping[str, Callable[[int], Schedule]] = {
    "constant": lambda steps: Constant(),
    "warm-up": lambda steps: from_name("warmup", steps),
    "1cycle": OneCycle,
}
"""Schedules by name, as functions of the number of steps."""


class Cell(NamedTuple):
    """A combination of initialization, normalization and schedule."""

    initialization: str
    normalized: bool
    schedule: str


class Result(NamedTuple):
    """Results of the networks of a cell, one for each seed.

    Attributes:
        lr: Peak learning rate.
        validation, test: Tensors (seeds,) of accuracies.
        dead: Tensor (seeds, hidden layers): shares of dead units after training.
        sizes: Tensor (seeds, hidden layers): root mean square outputs before training.
    """

    lr: float
    validation: Tensor
    test: Tensor
    dead: Tensor
    sizes: Tensor


def train_cell(cell: Cell, lr: float, seeds: Sequence[int], data: ImageVectors, epochs: int) -> Result:
    """Train one network for each seed with AdamW."""
    inputs, labels = data.train
    train, validation = _split(len(labels))
    network = DeepNetwork((data.features, *HIDDEN, 10), seeds, cell.initialization, cell.normalized)
    sample = inputs[None, :512]
    if cell.initialization == "lsuv":
        scale_layers(network, sample)
    sizes, _ = layer_statistics(network, sample)
    schedule = SCHEDULES[cell.schedule](epochs * (train // BATCH))
    optimizer = AdamW(network.parameters(), lr=lr, schedule=schedule)
    generators = [generator("initialisation", seed) for seed in seeds]
    for _ in range(epochs):
        for index in index_batches(generators, train, BATCH):
            optimizer.zero_grad()
            output = network(inputs[index])
            loss = nn.functional.cross_entropy(output.flatten(0, 1), labels[index].flatten(), reduction="sum")
            (loss / BATCH).backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        held = slice(train, train + validation)
        scores = accuracies(network(inputs[None, held]), labels[held])
        test = accuracies(network(data.test[0][None]), data.test[1])
    return Result(lr, scores, test, layer_statistics(network, data.test[0][None])[1], sizes)


def _split(count: int) -> tuple[int, int]:
    """Return the numbers of training and validation images, at most those of the full experiment."""
    train = min(TRAINING, count * 3 // 4)
    return train, min(VALIDATION, count - train)


def selected(results: Sequence[Result]) -> Result:
    """Return the result with the highest mean validation accuracy."""
    return max(results, key=lambda result: float(result.validation.mean()))
