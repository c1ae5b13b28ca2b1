"""Stationary variance of optimizers on noisy quadratics, measured on many independent coordinates."""

import torch

COORDINATES = 20_000


def stationary_variance(make, curvature, batch, steps, *, noise=1.0, snapshots=20):
    """Return the mean square of the weights over the second half of the steps, and its standard error.

    The gradient of a batch is h w plus normal noise of variance noise^2/batch. `make` returns an optimizer of the
    weights, which start at the minimum. The error treats snapshots as copies of one sample: it is an upper bound.
    """
    generator = torch.Generator().manual_seed(batch)
    w = torch.zeros(COORDINATES, dtype=torch.float64, requires_grad=True)
    w.grad = torch.zeros_like(w)
    optimizer = make([w])
    squares = []
    for step in range(steps):
        w.grad.normal_(generator=generator).mul_(noise / batch**0.5).add_(w.detach(), alpha=curvature)
        optimizer.step()
        if step >= steps // 2 and step % max(1, steps // (2 * snapshots)) == 0:
            squares.append(w.detach().square().mean())
    mean = float(torch.stack(squares).mean())
    return mean, mean * (2 / COORDINATES) ** 0.5
