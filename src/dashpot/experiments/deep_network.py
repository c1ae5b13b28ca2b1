"""Deep networks with ReLU units, one for each seed, with several initializations and optional batch normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from dashpot.data.seeding import generator

INITIALIZATIONS = ("kaiming", "lsuv", "default", "large")
DEAD = 1e-3
"""Largest output of a dead unit, as in `dashpot.training.callbacks.Activations`."""
_EPS = 1e-5
_MOMENTUM = 0.1  # weight of a batch in the running statistics, as in torch


class DeepNetwork(nn.Module):
    """Fully connected networks with ReLU units, one for each seed.

    The initializations have normal weights with variance g^2/inputs and biases 0, except for "default":

    * "kaiming": g^2 = 2, the right one for ReLU, which keeps the mean square of the outputs from layer to layer;
    * "lsuv": as "kaiming", then each layer is divided by the standard deviation of its outputs (see `scale_layers`);
    * "default": that of `torch.nn.Linear`, uniform weights and biases in +-1/sqrt(inputs), i.e. Kaiming's for the leak
      sqrt(5); the mean square falls by a factor of six per layer;
    * "large": g^2 = 8, twice the right standard deviation; the mean square grows by a factor of four per layer.

    Args:
        widths: Numbers of units, from input to output.
        seeds: One seed for each network.
        initialization: One of `INITIALIZATIONS`.
        normalized: Whether batch normalization with scale 1 and shift 0 precedes each ReLU.

    Source: He et al., arXiv 1502.01852; Mishkin and Matas, arXiv 1511.06422; Ioffe and Szegedy, arXiv 1502.03167.
    """

    def __init__(self, widths: Sequence[int], seeds: Sequence[int], initialization: str, normalized: bool) -> None:
        super().__init__()
        sources = [generator("deep network", seed) for seed in seeds]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.normalized = normalized
        for inputs, outputs in pairwise(widths):
            weights, biases = zip(*(_layer(inputs, outputs, initialization, s) for s in sources), strict=True)
            self.weights.append(nn.Parameter(torch.stack(weights)))
            self.biases.append(nn.Parameter(torch.stack(biases)))
        hidden = [(len(seeds), 1, width) for width in widths[1:-1]]
        self.means = [torch.zeros(shape) for shape in hidden]
        self.variances = [torch.ones(shape) for shape in hidden]

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (networks, examples, classes) for inputs (networks or 1, examples, features)."""
        return self.layers(x)[-1]

    def layers(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the ReLU units of each hidden layer, and the output of the network."""
        x = x.expand(len(self.weights[0]), -1, -1)
        found = []
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < len(self.means):
                x = torch.relu(self._normalize(x, layer) if self.normalized else x)
            found.append(x)
        return found

    def _normalize(self, x: Tensor, layer: int) -> Tensor:
        """Normalize by the statistics of the batch in training mode, and by the running statistics otherwise."""
        if not self.training:
            return (x - self.means[layer]) / (self.variances[layer] + _EPS).sqrt()
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        self.means[layer].lerp_(mean.detach(), _MOMENTUM)
        self.variances[layer].lerp_(variance.detach(), _MOMENTUM)
        return (x - mean) / (variance + _EPS).sqrt()


def _layer(inputs: int, outputs: int, initialization: str, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the weights (inputs, outputs) and biases (1, outputs) of one network."""
    if initialization == "default":
        draws = torch.rand(inputs + 1, outputs, generator=source) * 2 - 1
        return draws[:-1] / math.sqrt(inputs), draws[-1:] / math.sqrt(inputs)
    gain = math.sqrt(8 if initialization == "large" else 2)
    return torch.randn(inputs, outputs, generator=source) * gain / math.sqrt(inputs), torch.zeros(1, outputs)


@torch.no_grad()
def scale_layers(network: DeepNetwork, x: Tensor) -> None:
    """Divide the weights of each layer by the standard deviation of its outputs for the inputs `x`, layer by layer.

    >>> network = DeepNetwork((4, 8, 8, 2), [0, 1], "kaiming", normalized=False)
    >>> x = torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(0))
    >>> scale_layers(network, x)
    >>> [round(value, 3) for value in network(x).std((1, 2)).tolist()]
    [1.0, 1.0]
    """
    x = x.expand(len(network.weights[0]), -1, -1)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        weight /= (x @ weight).std((1, 2), keepdim=True)
        x = torch.relu(x @ weight + bias)


@torch.no_grad()
def layer_statistics(network: DeepNetwork, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root mean square of the ReLU outputs and the share of dead units, of shape (networks, hidden layers).

    A unit is dead if none of its outputs exceeds `DEAD`. Networks with normalization use their current mode.
    """
    hidden = network.layers(x)[:-1]
    sizes = torch.stack([layer.square().mean((1, 2)).sqrt() for layer in hidden], 1)
    dead = torch.stack([(layer.amax(1) <= DEAD).double().mean(1) for layer in hidden], 1)
    return sizes, dead
