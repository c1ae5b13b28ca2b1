"""Effect of the zero of the gradient filter and of the rate on a network for the digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dashpot.experiments.stacked_network import StackedNetwork, accuracies, batches, digit_vectors, losses
from dashpot.experiments.zero_on_quadratic import recipe_of
from dashpot.optimizers.sgm import SGM


def train(zero: float, lr: float, seeds: Sequence[int], steps: int) -> tuple[Tensor, Tensor]:
    """Train 64-32-10 networks on batches of 50, and return their training losses and evaluation accuracies.

    Losses that are not finite are returned as infinity.
    """
    inputs, labels, eval_inputs, eval_labels = digit_vectors()
    model = StackedNetwork((64, 32, 10), seeds)
    optimizer = SGM.from_recipe(model.parameters(), recipe_of(zero, lr))
    source = batches(seeds, 50)
    for _ in range(steps):
        optimizer.zero_grad()
        losses(model, *next(source)).sum().backward()
        optimizer.step()
    with torch.no_grad():
        final = losses(model, inputs[None], labels[None]).double()
        return final.nan_to_num(nan=torch.inf), accuracies(model(eval_inputs[None]), eval_labels)
