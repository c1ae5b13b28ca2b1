"""Losses on which stochastic gradient descent diverges, stays at a saddle, or circles forever, and their gradients.

All losses are non-negative and have gradients that are Lipschitz continuous where the paths run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPIRAL_DEPTH, SPIRAL_TURN = 0.5, 4.0
"""a and kappa of `spiral_loss`."""


def escaping_gradient(w: Tensor) -> Tensor:
    """Return the gradient of log(1 + exp(-w)), whose infimum 0 is approached as w goes to infinity."""
    return -torch.sigmoid(-w)


def escaped_to(reach: float, start: float = 0.0) -> float:
    """Return the w of gradient flow on log(1 + exp(-w)) after a sum of rates: the root of w + e^w = reach + constant.

    >>> round(escaped_to(100.0) + math.exp(escaped_to(100.0)), 6)
    101.0
    """
    total = reach + start + math.exp(start)
    low, high = start, start + reach
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + math.exp(min(middle, 700.0)) < total else (low, middle)
    return low


def saddle_gradient(w: Tensor) -> Tensor:
    """Return the gradient of x^2/2 + (y^2 - 1)^2/4 for w of shape (2, ...): a saddle at 0, minima at y = -1 and 1."""
    x, y = w
    return torch.stack([x, y * (y * y - 1)])


def spiral_loss(w: Tensor) -> Tensor:
    """Return d^2 (1 - a sin(angle + kappa log d)) with d = r - 1 for points w of shape (2, ...) with r > 1.

    The loss decreases along a valley that winds around the circle r = 1 infinitely often. Every point of the circle is
    a minimum with loss 0 and a limit point of gradient flow.

    Source: after Absil, Mahony and Andrews, Convergence of the iterates of descent methods for analytic cost
    functions, SIAM Journal on Optimization 16, 2005, whose loss has the same property and is smooth, but is so flat
    that a second turn takes 500 times as many steps as the first.
    """
    d = torch.linalg.vector_norm(w, dim=0) - 1
    phase = torch.atan2(w[1], w[0]) + SPIRAL_TURN * d.log()
    return d.square() * (1 - SPIRAL_DEPTH * phase.sin())


def spiral_gradient(w: Tensor) -> Tensor:
    """Return the gradient of `spiral_loss`."""
    r = torch.linalg.vector_norm(w, dim=0)
    d = r - 1
    phase = torch.atan2(w[1], w[0]) + SPIRAL_TURN * d.log()
    slope = SPIRAL_DEPTH * phase.cos()
    radial = d * (2 * (1 - SPIRAL_DEPTH * phase.sin()) - SPIRAL_TURN * slope)
    outward = w / r
    return radial * outward - d.square() * slope / r * torch.stack([-outward[1], outward[0]])


def spiral_flow(start: tuple[float, float], reach: float, length: float = 0.1) -> tuple[float, float]:
    """Return the distance to the circle and the angle after gradient flow over a sum of rates.

    Args:
        start: Initial radius and angle.
        reach: Sum of the rates.
        length: Length of the Runge-Kutta steps of fourth order.
    """
    r, angle = start
    for _ in range(round(reach / length)):
        k1 = _velocity(r, angle)
        k2 = _velocity(r + length / 2 * k1[0], angle + length / 2 * k1[1])
        k3 = _velocity(r + length / 2 * k2[0], angle + length / 2 * k2[1])
        k4 = _velocity(r + length * k3[0], angle + length * k3[1])
        r += length / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
        angle += length / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    return r - 1, angle


def _velocity(r: float, angle: float) -> tuple[float, float]:
    d = r - 1
    phase = angle + SPIRAL_TURN * math.log(d)
    slope = SPIRAL_DEPTH * math.cos(phase)
    radial = d * (2 * (1 - SPIRAL_DEPTH * math.sin(phase)) - SPIRAL_TURN * slope)
    return -radial, d * d * slope / (r * r)
