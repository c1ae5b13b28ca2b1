"""Small networks on the digits, one for each seed, as batched matrix products.

An elementwise optimizer acts on each network independently, since every parameter has one row for each network.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dashpot.data import digits
from dashpot.data.seeding import generator


@functools.cache
def digit_vectors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training inputs, training labels, evaluation inputs and evaluation labels; pixels in [-1, 1].

    >>> [tuple(part.shape) for part in digit_vectors()]
    [(1500, 64), (1500,), (297, 64), (297,)]
    """
    data = digits.load()
    pixels = (data.train_images, data.eval_images)
    images = [torch.tensor(part.reshape(len(part), 64) / 8 - 1.0, dtype=torch.float32) for part in pixels]
    labels = [torch.tensor(part, dtype=torch.int64) for part in (data.train_labels, data.eval_labels)]
    return images[0], labels[0], images[1], labels[1]


class StackedNetwork(nn.Module):
    """Fully connected networks with tanh units, one for each seed.

    Args:
        widths: Numbers of units, from input to output; `(64, 10)` is softmax regression.
        seeds: One seed for each network; weights are normal with variance 1/inputs, and biases are 0.
        dtype: Type of the parameters.
    """

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generators = [generator("stacked network", seed) for seed in seeds]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            draws = [torch.randn(inputs, outputs, generator=g, dtype=torch.float64) for g in generators]
            self.weights.append(nn.Parameter((torch.stack(draws) / inputs**0.5).to(dtype)))
            self.biases.append(nn.Parameter(torch.zeros(len(seeds), 1, outputs, dtype=dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (networks, examples, classes) for inputs (networks or 1, examples, features)."""
        x = x.to(self.weights[0].dtype).expand(len(self.weights[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.tanh(x) if layer else x, weight)
        return x


def losses(network: StackedNetwork, inputs: Tensor, labels: Tensor, penalty: float = 0.0) -> Tensor:
    """Return the mean cross-entropy plus penalty/2 |w|^2 of each network.

    Args:
        network: The networks.
        inputs: Tensor (networks or 1, examples, features).
        labels: Tensor (networks or 1, examples).
        penalty: Coefficient of the squared weights and biases.
    """
    output = network(inputs)
    values = nn.functional.cross_entropy(
        output.flatten(0, 1), labels.expand(len(output), -1).flatten(), reduction="none"
    )
    result = values.view(len(output), -1).mean(1)
    if penalty:
        result = result + penalty / 2 * sum(p.square().sum((1, 2)) for p in network.parameters())
    return result


def accuracies(output: Tensor, labels: Tensor) -> Tensor:
    """Return the share of correct predictions for outputs of shape (networks, examples, classes)."""
    return (output.argmax(2) == labels).double().mean(1)


def batches(seeds: Sequence[int], size: int, *, replace: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches of inputs (seeds, size, 64) and labels (seeds, size).

    Args:
        seeds: One seed for each network.
        size: Number of examples per batch.
        replace: If True, draw every example independently; otherwise draw a new order of all examples every epoch.

    >>> [tuple(part.shape) for part in next(batches([0, 1], size=10))]
    [(2, 10, 64), (2, 10)]
    """
    inputs, labels, _, _ = digit_vectors()
    generators = [generator("batches", seed) for seed in seeds]
    while True:
        for index in index_batches(generators, len(labels), size, replace=replace):
            yield inputs[index], labels[index]


def index_batches(
    generators: Sequence[torch.Generator], count: int, size: int, *, replace: bool = False
) -> Iterator[Tensor]:
    """Yield the indices of the examples of each batch of an epoch, of shape (networks, size).

    Args:
        generators: One generator for each network.
        count: Number of examples.
        size: Number of examples per batch; an incomplete batch is omitted.
        replace: If True, draw every example independently; otherwise draw an order of all examples.

    >>> [tuple(index.shape) for index in index_batches([torch.Generator()] * 3, 10, 4)]
    [(3, 4), (3, 4)]
    """
    usable = count - count % size
    if replace:
        orders = torch.stack([torch.randint(count, (usable,), generator=g) for g in generators])
    else:
        orders = torch.stack([torch.randperm(count, generator=g)[:usable] for g in generators])
    yield from orders.split(size, dim=1)
