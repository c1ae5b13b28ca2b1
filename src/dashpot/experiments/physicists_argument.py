"""The three steps of the physicist's argument for convergence, and exploration by slow cooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from dashpot.experiments.copies import normal_noise, sample_path
from dashpot.experiments.double_well import DoubleWell
from dashpot.optimizers.torch_compatible import SGD
from dashpot.schedules import InverseTime, Schedule

WINDOW = 0.02
"""Sum of the rates over which gradients are averaged."""
WELL = DoubleWell(tilt=0.03)
HOTTEST = 0.04
"""First rate of the cooling, T = .32 with the gradient noise of the well."""


def averaging_errors(seeds: Sequence[int], steps: int, copies: int) -> list[float]:
    """Return the root mean square error of the gradient averaged over `steps` steps with a sum of rates of .02.

    The loss is w^2/2 at w = 1, with unit gradient noise. The mean of the gradients is -(change of w)/(sum of rates);
    its error is the distance from the gradient at the start.
    """
    draws = normal_noise(f"window {steps}", seeds, copies)
    start = torch.ones(len(seeds), copies, dtype=torch.float64)
    path = sample_path(lambda w: SGD(w, lr=WINDOW / steps), lambda w: w + next(draws), start, steps, keep_from=steps)
    mean_gradient = (start - path[-1]) / WINDOW
    return (mean_gradient - 1).square().mean(1).sqrt().tolist()


def predicted_error(steps: int) -> float:
    """Return the predicted error, from the noise 1/steps and the drift of the gradient.

    >>> round(predicted_error(100), 3)
    0.1
    """
    shrink = 1 - WINDOW / steps
    drift = (1 - shrink**steps) / WINDOW - 1
    noise = sum(shrink ** (2 * k) for k in range(steps)) / steps**2
    return math.sqrt(drift**2 + noise)


def final_weight(schedule: Schedule, steps: int, lr: float = 0.1, curvature: float = 0.01) -> float:
    """Return the weight after `steps` steps without noise, from w = 1."""
    start = torch.ones(1, dtype=torch.float64)
    path = sample_path(
        lambda w: SGD(w, lr=lr, schedule=schedule), lambda w: curvature * w, start, steps, keep_from=steps
    )
    return path[-1].item()


def deeper_share(seeds: Sequence[int], cooling: int, copies: int) -> list[float]:
    """Return the share of runs that end in the deeper well, for the rate .04/(1 + t/cooling) over 20 `cooling` steps.

    Half of the runs start in each well.
    """
    draws = normal_noise(f"cooling {cooling}", seeds, copies)
    start = torch.ones(len(seeds), copies, dtype=torch.float64)
    start[:, : copies // 2] = -1
    scale = WELL.noise**0.5
    path = sample_path(
        lambda w: SGD(w, lr=HOTTEST, schedule=InverseTime(1 / cooling)),
        lambda w: WELL.gradient(w) + scale * next(draws),
        start,
        20 * cooling,
        keep_from=20 * cooling,
    )
    return (path[-1] < 0).double().mean(1).tolist()
