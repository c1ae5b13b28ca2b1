"""The training loop: flat, in the order in which things happen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem, evaluate
from dashpot.training.meter import Meter

__all__ = ["Divergence", "Epoch", "lr_in_force", "train"]

COUNT = Interval(0, math.inf, "left", integer=True)


@dataclass(frozen=True)
class Divergence:
    """The step (0 for the first of the run) whose loss was not finite, and what it was: `"nan"` or `"inf"`."""

    step: int
    label: str


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured.

    `number` counts from 1, `steps` from the start of the run. `train` holds running means taken while the weights
    change, `evaluation` the means after the epoch (empty without an evaluation set, and for a diverged epoch).
    `loss` and `lr` have one entry a step; `lr` is the rate the step used. `cpu_s` and `wall_s` are seconds of training,
    evaluation left out.
    """

    number: int
    steps: int
    train: dict[str, float]
    evaluation: dict[str, float]
    loss: list[float]
    lr: list[float]
    cpu_s: float
    wall_s: float
    diverged: Divergence | None = None


def lr_in_force(optimizer: Optimizer) -> float:
    """The learning rate of the first group that the next step will use, its schedule included.

    >>> import torch
    >>> lr_in_force(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5))
    0.5
    """
    scheduled = getattr(optimizer, "lr_at", None)
    return float(optimizer.param_groups[0]["lr"] if scheduled is None else scheduled())


def train(
    problem: Problem,
    optimizer: Optimizer,
    epochs: int,
    *,
    first: int = 0,
    on_step: Callable[[int], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Train `problem.model` in place and evaluate it after every epoch.

    A step zeroes the gradients, computes the mean loss of its batch, goes backward and lets the optimizer step. A loss
    that is not finite ends the run: the last `Epoch` then carries `diverged`, and its steps end with that loss. It may
    be noticed up to `meter.FLUSH` steps late, because losses are read from the device that many at a time.

    Args:
        problem: model, batches, loss and metrics.
        optimizer: any `torch.optim.Optimizer` over the model's parameters.
        epochs: epochs in all, at least 1.
        first: epochs already done, for a run that goes on; batches are drawn for the epochs from here on.
        on_step: called after every step with the number of steps done.
        on_epoch: called with each `Epoch` once it is evaluated.

    Returns:
        The epochs trained by this call.

    Raises:
        ArgumentError: `epochs` or `first` is out of range.

    >>> import torch
    >>> from dashpot import tasks
    >>> problem = tasks.get("digits").build(0)
    >>> [epoch] = train(problem, torch.optim.Adam(problem.model.parameters(), lr=0.01), epochs=1)
    >>> epoch.steps == len(problem.train), sorted(epoch.evaluation)
    (True, ['accuracy', 'loss'])
    """
    check("train", "epochs", epochs, Interval(1, math.inf, "left", integer=True))
    check("train", "first", first, COUNT)
    if first > epochs:
        raise ArgumentError(f"train: first must be at most epochs = {epochs}, got {first}.")
    done = first * len(problem.train)
    history: list[Epoch] = []
    backward = getattr(optimizer, "backward", Tensor.backward)  # second-order methods take their products on the way
    for number in range(first, epochs):
        cpu, wall, start = time.process_time(), time.perf_counter(), done
        meter = Meter(problem.metrics)
        problem.model.train()
        for x, y in problem.train.epoch(number):
            lr = lr_in_force(optimizer)
            optimizer.zero_grad()
            output = problem.model(x)
            loss = problem.loss(output, y)
            backward(loss)
            optimizer.step()
            meter.add(output.detach(), y, loss.detach(), lr, size=len(x))
            done += 1
            if on_step is not None:
                on_step(done)
            if meter.diverged is not None:
                break
        meter.flush()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        diverged = _divergence(meter, start)
        history.append(
            Epoch(
                number=number + 1,
                steps=start + len(meter.losses),
                train={} if diverged else meter.means(),
                evaluation={} if diverged or problem.evaluation is None else evaluate(problem),
                loss=meter.losses,
                lr=meter.lrs,
                cpu_s=cpu,
                wall_s=wall,
                diverged=diverged,
            )
        )
        if on_epoch is not None:
            on_epoch(history[-1])
        if diverged:
            break
    return history


def _divergence(meter: Meter, start: int) -> Divergence | None:
    if meter.diverged is None:
        return None
    return Divergence(start + meter.diverged, "nan" if math.isnan(meter.losses[-1]) else "inf")
