"""Recorded runs on digits in float64."""

from functools import cache

import torch
from torch import nn

from dashpot import analysis, tasks


@cache
def _batches():
    build = tasks.get("digits").build(0)
    return [(x.double(), y) for (x, y), _ in zip(build.train, range(12), strict=False)]


def small_network():
    """Return a network with 1130 parameters that is cheap in float64."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 15), nn.Tanh(), nn.Linear(15, 10))


def full_network():
    """Return the network of the task, with convolutions and batch normalization."""
    return tasks.get("digits").build(0).model


def record(make, steps=12, network=small_network, **options):
    """Return the dynamics of a run on digits, given a function from named parameters to an optimizer."""
    torch.manual_seed(0)
    model = network().double()
    optimizer = make(list(model.named_parameters()))
    with analysis.record_steps(optimizer, **options) as recording:
        for x, y in _batches()[:steps]:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            if hasattr(optimizer, "backward"):
                optimizer.backward(loss)
            else:
                loss.backward()
            optimizer.step()
    return analysis.dynamics(recording)
