"""Many independent copies of an optimization problem in one tensor, with one row for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dashpot.data.seeding import generator
from dashpot.optimizers.base import Optimizer

_BLOCK = 64  # steps of noise drawn at once


def normal_noise(key: str, seeds: Sequence[int], copies: int) -> Iterator[Tensor]:
    """Yield standard normal tensors of shape (seeds, copies); a row depends only on its seed and on `key`.

    >>> rows = [next(normal_noise("weights", seeds, copies=3)) for seeds in ([0, 1], [1])]
    >>> torch.equal(rows[0][1], rows[1][0])
    True
    """
    generators = [generator(key, seed) for seed in seeds]
    while True:
        draws = [torch.randn(_BLOCK, copies, generator=g, dtype=torch.float64) for g in generators]
        yield from torch.stack(draws, dim=1)


def sample_path(
    create: Callable[[list[Tensor]], Optimizer],
    gradient: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    *,
    keep_from: int = 0,
    every: int = 1,
    after_step: Callable[[int, Tensor, Optimizer], None] | None = None,
) -> Tensor:
    """Return weights at regular intervals on the path of an optimizer that acts elementwise on all copies.

    Args:
        create: Function that creates the optimizer from the list of parameters.
        gradient: Function that returns the stochastic gradient at the given weights.
        start: Initial weights.
        steps: Number of steps.
        keep_from: Number of steps before the first returned weights.
        every: Number of steps between returned weights.
        after_step: Function of the number of steps done, the weights, and the optimizer, called after every step.

    Returns:
        Tensor of shape (times, *start.shape): the weights after `keep_from`, `keep_from + every`, ... steps.

    >>> import dashpot as dp
    >>> sample_path(lambda w: dp.SGD(w, lr=0.5), lambda w: w.clone(), torch.ones(1), 4, every=2).flatten()
    tensor([1.0000, 0.2500, 0.0625])
    """
    weight = start.clone()
    optimizer = create([weight])
    kept = [weight.clone()] if keep_from == 0 else []
    for step in range(1, steps + 1):
        weight.grad = gradient(weight)
        optimizer.step()
        if step >= keep_from and (step - keep_from) % every == 0:
            kept.append(weight.clone())
        if after_step is not None:
            after_step(step, weight, optimizer)
    return torch.stack(kept)
