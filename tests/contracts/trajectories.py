"""Short deterministic runs with recorded gradients, and comparisons of the results."""

from __future__ import annotations

from functools import cache

import torch

SHAPES = ((3, 2), (4,), ())
SMALL = ((3, 2), ())
"""A matrix and a scalar, for tests with many runs."""


def parameters(dtype=torch.float64, shapes=SHAPES, seed=0):
    """Return leaf tensors determined by the arguments. For every dtype, the same float64 values are rounded."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=wide).to(dtype).requires_grad_() for shape in shapes]


@cache
def _recorded(shape, dtype, step, index):
    generator = torch.Generator().manual_seed(1000 * step + index)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def gradient(p, step, index=0):
    """Return the gradient of parameter `index` at `step`. It does not depend on `p`, so that errors do not compound."""
    return _recorded(tuple(p.shape), p.dtype, step, index).clone()


def run(optimizer, params, steps=10, missing=lambda step, index: False):
    """Take `steps` (a number or a range) with recorded gradients, or None if `missing`, and return `params`."""
    for step in range(steps) if isinstance(steps, int) else steps:
        for index, p in enumerate(params):
            p.grad = None if missing(step, index) else gradient(p, step, index)
        optimizer.step()
    return params


def values(params):
    return [p.detach().clone() for p in params]


def distance(params, expected):
    """Return the maximum of |a - b| / max(1, |b|) over all elements, or inf for nonfinite values."""
    pairs = list(zip(params, expected, strict=True))
    errors = [((a - b).abs() / b.abs().clamp_min(1)).max().item() for a, b in pairs if a.numel()]
    return max(errors, default=0.0) if all(torch.isfinite(a).all() for a, _ in pairs) else float("inf")


def identical(params, expected):
    return all(torch.equal(a, b) for a, b in zip(params, expected, strict=True))


def assert_same_method(first, second, tolerance=1e-12, steps=15):
    """Check that the optimizers of two factories result in equal weights for equal gradients.

    The tolerance 1e-12 in float64 allows for a different order of arithmetic.
    """
    one, two = parameters(shapes=SMALL), parameters(shapes=SMALL)
    assert distance(run(first(one), one, steps), run(second(two), two, steps)) < tolerance


def assert_different_method(first, second):
    """Check that the weights of two optimizer factories differ, as a negative control for `assert_same_method`."""
    one, two = parameters(shapes=SMALL), parameters(shapes=SMALL)
    assert distance(run(first(one), one, 15), run(second(two), two, 15)) > 1e-6
