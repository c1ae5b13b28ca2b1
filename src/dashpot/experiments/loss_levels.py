"""Equilibrium loss of softmax regression on the digits at three learning rates, predicted from the gradient noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dashpot.experiments.stacked_network import StackedNetwork, batches, digit_vectors, losses
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import StepDecay


@dataclass(frozen=True)
class Minimum:
    """The smallest training loss, and the quadratic problem around it.

    Args:
        loss: Training loss at the minimum.
        curvatures: Eigenvalues of the Hessian.
        noises: Variances of the gradient of one example along the eigenvectors.
    """

    loss: float
    curvatures: Tensor
    noises: Tensor

    def equilibrium(self, lr: float, batch: int) -> float:
        """Return the mean loss of plain gradient descent in equilibrium, sum_i lr c_i/(2 B (2 - lr h_i)) above it."""
        return self.loss + float((lr * self.noises / (2 * batch * (2 - lr * self.curvatures))).sum())


@dataclass(frozen=True)
class LossLevels:
    """Losses while the rate drops twice by a factor of two.

    Args:
        steps: Steps at which the losses were measured.
        train: Tensor (seeds, times): loss over all training examples, penalty included.
        validation: Tensor (seeds, times): cross-entropy over the evaluation examples.
        minimum: Smallest training loss.
        predicted: Predicted mean training loss of each rate.
        measured: Tensor (seeds, rates): mean training loss over the second half of each phase.
        rates: The learning rates.
    """

    steps: Sequence[int]
    train: Tensor
    validation: Tensor
    minimum: float
    predicted: Sequence[float]
    measured: Tensor
    rates: Sequence[float]


def loss_levels(
    seeds: Sequence[int],
    *,
    lr: float = 0.1,
    batch: int = 10,
    penalty: float = 0.03,
    phase: int = 1500,
    every: int = 25,
    replace: bool = True,
) -> LossLevels:
    """Train softmax regression with a rate of lr, lr/2 and lr/4, `phase` steps each."""
    inputs, labels, eval_inputs, eval_labels = digit_vectors()
    minimum = _training_minimum(penalty)
    model = StackedNetwork((64, 10), seeds)
    optimizer = SGD(model.parameters(), lr=lr, schedule=StepDecay(0.5, every=phase))
    source = batches(seeds, batch, replace=replace)
    times, train, validation = [], [], []
    for step in range(1, 3 * phase + 1):
        optimizer.zero_grad()
        losses(model, *next(source), penalty).sum().backward()
        optimizer.step()
        if step % every == 0:
            with torch.no_grad():
                times.append(step)
                train.append(losses(model, inputs[None], labels[None], penalty).double())
                validation.append(losses(model, eval_inputs[None], eval_labels[None]).double())
    history = torch.stack(train, 1)
    half = phase // every // 2
    parts = [history[:, (k + 1) * phase // every - half : (k + 1) * phase // every].mean(1) for k in range(3)]
    rates = [lr, lr / 2, lr / 4]
    predicted = [minimum.equilibrium(rate, batch) for rate in rates]
    return LossLevels(times, history, torch.stack(validation, 1), minimum.loss, predicted, torch.stack(parts, 1), rates)


@functools.cache
def _training_minimum(penalty: float) -> Minimum:
    inputs, labels, _, _ = digit_vectors()
    return _minimum(inputs, labels, penalty)


def _minimum(inputs: Tensor, labels: Tensor, penalty: float) -> Minimum:
    """Return the minimum of the loss, found by L-BFGS, with the Hessian and the gradient noise there."""
    model = StackedNetwork((64, 10), [0], torch.float64)
    solver = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = losses(model, inputs[None], labels[None], penalty).sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    loss = closure().item()
    with torch.no_grad():
        # The gradient of example i is the outer product of (x_i, 1) and p_i - y_i, plus a penalty common to all.
        p = torch.softmax(model(inputs[None])[0], 1)
        extended = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
        gradients = torch.einsum("ni,nj->nij", extended, p - torch.nn.functional.one_hot(labels, 10)).flatten(1)
        outer = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("ni,nk,njl->ijkl", extended, extended, outer / len(p)).reshape(650, 650)
        curvatures, directions = torch.linalg.eigh(hessian + penalty * torch.eye(650, dtype=torch.float64))
        return Minimum(loss, curvatures, (gradients @ directions).var(0, correction=0))
