"""Recorded values of scheduled steps, and torch schedulers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from learner_support import learner
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.training import Callback


class StepValues(Callback):
    """Record the value of a hyperparameter that each step uses."""

    order = 45

    def __init__(self, read=lambda group: group["lr"]):
        self.read, self.values = read, []

    def step(self, learner, proceed):
        value = self.read(learner.opt.param_groups[0])
        proceed()
        if learner.batch.stepped:
            self.values.append(float(value))


def step_values(schedule, epochs=3, make=torch.optim.SGD, read=lambda group: group["lr"], lr=0.5, **options):
    """Return the values that the steps use, with three steps per epoch."""
    seen = StepValues(read)
    learner(make, lr, callbacks=[schedule, seen, *options.pop("others", [])]).fit(epochs, **options)
    return seen.values


BOTH_SGD = pytest.mark.parametrize("make", [torch.optim.SGD, dp.SGD], ids=["torch", "dashpot"])


TORCH_SCHEDULERS = {
    "step": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "multi": partial(lr_scheduler.MultiStepLR, milestones=[2, 4], gamma=0.5),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
    "multiplicative": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda step: 0.9),
    "linear": partial(lr_scheduler.LinearLR, total_iters=4),
    "constant": partial(lr_scheduler.ConstantLR, total_iters=2),
    "polynomial": lambda opt, total_steps: lr_scheduler.PolynomialLR(opt, total_steps, power=2.0),
    "cosine": lambda opt, n: lr_scheduler.CosineAnnealingLR(opt, n, eta_min=0.1),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=3, cycle_momentum=False),
    "onecycle": partial(lr_scheduler.OneCycleLR, max_lr=0.5),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.8)], milestones=[3]
    ),
}
