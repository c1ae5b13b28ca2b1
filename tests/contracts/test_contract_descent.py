"""Contract: every method reduces an ill-conditioned quadratic and Rosenbrock's function."""

import torch
from registry import each, each_second

STEPS = 150


def quadratic(w):
    curvature = torch.logspace(0, 1, w.numel(), dtype=w.dtype)
    return 0.5 * (curvature * (w - 1) ** 2).sum()


def rosenbrock(w):
    return 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2


def descend(subject, loss, start, lr):
    """Return the losses before each step and after the last step."""
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = subject.make([w], lr=lr)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return [*losses, loss(w).item()]


@each()
def test_quadratic_loss_falls_by_a_factor_of_ten(subject):
    losses = descend(subject, quadratic, [-1.0, -0.5, -0.25, 0.5, 1.5, 2.0], subject.lr)
    assert losses[-1] < 0.1 * losses[0]  # measured: 0.08 for the slowest method (a long warm-up), below 0.03 for most


@each_second()
def test_rosenbrock_loss_falls(subject):
    lr = 0.02 * subject.lr if subject.steep else subject.lr
    losses = descend(subject, rosenbrock, [-1.2, 1.0], lr)
    assert losses[-1] < 0.25 * losses[0]  # measured: at most 0.18; the floor of the valley is at 0.17
