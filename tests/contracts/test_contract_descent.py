"""Contract: every method reduces an ill-conditioned quadratic and Rosenbrock's function."""

import pytest
import torch
from registry import HALF_OF_KINDS, KINDS, SUBJECTS, each_second, marked

STEPS = 150
HELD = 20

each_other = pytest.mark.parametrize("subject", marked(SUBJECTS, KINDS - HALF_OF_KINDS), ids=str)
"""The kinds that `each_second` leaves out, so that the fast tests of the two functions cover every kind."""
to_the_end = pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["held", "end"])


def quadratic(w):
    curvature = torch.logspace(0, 1, w.numel(), dtype=w.dtype)
    return 0.5 * (curvature * (w - 1) ** 2).sum()


def rosenbrock(w):
    return 100 * (w[1] - w[0] ** 2) ** 2 + (1 - w[0]) ** 2


def descend(subject, loss, start, lr, share, whole):
    """Return the losses before each step and after the last step, divided by the first.

    Unless `whole`, stop early when the last losses have been below `share` for `HELD` steps, not only in one of the
    swings of momentum.
    """
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = subject.make([w], lr=lr)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(w)
        value.backward()
        optimizer.step()
        losses.append(value.item())
        if not whole and len(losses) > HELD and max(losses[-HELD:]) < share * losses[0]:
            break
    return [value / losses[0] for value in [*losses, loss(w).item()]]


@to_the_end
@each_second()
def test_quadratic_loss_falls_by_a_factor_of_ten(subject, whole):
    losses = descend(subject, quadratic, [-1.0, -0.5, -0.25, 0.5, 1.5, 2.0], subject.lr, 0.1, whole)
    assert losses[-1] < 0.1  # measured: 0.08 for the slowest method (a long warm-up), below 0.03 for most


@to_the_end
@each_other
def test_rosenbrock_loss_falls(subject, whole):
    lr = 0.02 * subject.lr if subject.steep else subject.lr
    losses = descend(subject, rosenbrock, [-1.2, 1.0], lr, 0.25, whole)
    assert losses[-1] < 0.25  # measured: at most 0.18; the floor of the valley is at 0.17
