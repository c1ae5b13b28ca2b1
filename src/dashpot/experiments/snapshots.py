"""Snapshots of networks at the end of each cycle of a cycling learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dashpot.experiments.stacked_network import StackedNetwork, accuracies, batches, digit_vectors, losses
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import Cosine, CosineRestarts, Schedule

_WIDTHS = (64, 32, 10)


@dataclass(frozen=True)
class Snapshots:
    """Measurements on the snapshots of one schedule; each is a tensor with one element for each seed.

    Args:
        disagreement: Share of evaluation images on which the last two snapshots predict different classes.
        barrier: Largest training loss on the straight line between the last two snapshots, minus that of the ends.
        last: Accuracy of the last snapshot.
        ensemble: Accuracy of the mean of the predicted probabilities of all snapshots.
        steps: Steps at which `curve` was measured.
        curve: Tensor (seeds, times): training loss.
    """

    disagreement: Tensor
    barrier: Tensor
    last: Tensor
    ensemble: Tensor
    steps: Sequence[int]
    curve: Tensor


def snapshots(
    seeds: Sequence[int], *, cycling: bool, lr: float = 0.5, cycles: int = 4, length: int = 600, every: int = 20
) -> Snapshots:
    """Train a 64-32-10 network and take a snapshot every `length` steps.

    Args:
        seeds: One seed for each network.
        cycling: If True, the rate follows a cosine from lr to 0 in every cycle; otherwise one cosine over all cycles.
        lr: Largest learning rate.
        cycles: Number of snapshots.
        length: Number of steps between snapshots.
        every: Number of steps between points of the loss curve.
    """
    inputs, labels, eval_inputs, _ = digit_vectors()
    schedule: Schedule = CosineRestarts(length) if cycling else Cosine(cycles * length)
    model = StackedNetwork(_WIDTHS, seeds)
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9, dampening=0.9, schedule=schedule)
    source = batches(seeds, 50)
    times, curve, weights, outputs = [], [], [], []
    for step in range(1, cycles * length + 1):
        optimizer.zero_grad()
        losses(model, *next(source)).sum().backward()
        optimizer.step()
        with torch.no_grad():
            if step % every == 0:
                times.append(step)
                curve.append(losses(model, inputs[None], labels[None]))
            if step % length == 0:
                weights.append([p.clone() for p in model.parameters()])
                outputs.append(model(eval_inputs[None]))
    return _measure(model, weights, outputs, times, torch.stack(curve, 1))


def _measure(
    model: StackedNetwork, weights: list[list[Tensor]], outputs: list[Tensor], times: list[int], curve: Tensor
) -> Snapshots:
    labels = digit_vectors()[3]
    differs = outputs[-1].argmax(2) != outputs[-2].argmax(2)
    mean = torch.stack([torch.softmax(output, 2) for output in outputs]).mean(0)
    return Snapshots(
        disagreement=differs.double().mean(1),
        barrier=_barrier(model, weights[-2], weights[-1]),
        last=accuracies(outputs[-1], labels),
        ensemble=accuracies(mean, labels),
        steps=times,
        curve=curve,
    )


@torch.no_grad()
def _barrier(model: StackedNetwork, start: list[Tensor], end: list[Tensor], points: int = 11) -> Tensor:
    """Return the largest training loss on the line between two sets of weights, minus the larger one of its ends."""
    inputs, labels, _, _ = digit_vectors()
    values = []
    for share in torch.linspace(0, 1, points).tolist():
        for p, a, b in zip(model.parameters(), start, end, strict=True):
            p.copy_((1 - share) * a + share * b)
        values.append(losses(model, inputs[None], labels[None]))
    line = torch.stack(values)
    return (line.amax(0) - torch.maximum(line[0], line[-1])).double()
