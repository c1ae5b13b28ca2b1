"""Effect of the zero of the gradient filter on a quadratic: stable rates, speed and stationary variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dashpot.analysis import stability
from dashpot.experiments.copies import sample_path
from dashpot.experiments.equilibrium import Create, defined, stationary_weights
from dashpot.optimizers.sgm import SGM
from dashpot.recipes.recipe import Recipe
from dashpot.stages import Filter

POLE = 0.9
_WINDOW = 40
"""Steps over which the amplitude of an error is taken, since errors oscillate."""
_RANGE = (1e-200, 1e200)
"""Amplitudes within which growth is measured, so that no rounding to zero or infinity enters."""


def recipe_of(zero: float, lr: float = 1.0) -> Recipe:
    """Return the recipe with the filter of unit DC gain with pole .9 and the given zero.

    >>> recipe_of(0.5)
    Recipe(Filter(pole=0.9, zero=0.5, normalise='none'), lr=1.0)
    """
    return Recipe(Filter(POLE, zero, normalise="none"), lr=lr)


def contraction(zero: float, products: Tensor, steps: int) -> Tensor:
    """Return the factor per step by which errors change, for each product lr h, measured without noise.

    The products are curvatures of independent weights, with lr = 1.
    """
    create = _creator(zero)
    path = sample_path(create, lambda w: products * w, torch.ones_like(products), steps)
    windows = path[: len(path) // _WINDOW * _WINDOW].abs().view(-1, _WINDOW, len(products)).amax(1)
    inside = (windows > _RANGE[0]) & (windows < _RANGE[1])
    last = (inside.long().cumprod(0).sum(0) - 1).clamp(min=1)
    ends = windows.gather(0, last[None])[0].clamp(*_RANGE)
    return (ends / windows[0]) ** (1 / (_WINDOW * last))


def largest_product(zero: float, steps: int, points: int = 64) -> float:
    """Return the largest stable product lr h, by refining a grid of products twice.

    >>> abs(largest_product(0.9, steps=300) / 2 - 1) < 0.01
    True
    """
    low, high = 0.05, 200.0
    for length, grid in (
        (max(steps // 4, 2 * _WINDOW), torch.logspace(math.log10(low), math.log10(high), points)),
        (steps, None),
    ):
        products = torch.linspace(low, high, points) if grid is None else grid
        growing = contraction(zero, products.double(), length) > 1
        first = int(growing.long().argmax())
        low, high = products[first - 1].item(), products[first].item()
    return (low + high) / 2


def predicted_contraction(zero: float, products: Sequence[float]) -> list[float]:
    """Return the spectral radius for each product lr h."""
    recipe = recipe_of(zero)
    return [defined(stability(recipe, curvature=product).spectral_radius) for product in products]


def fewest_steps(radii: Sequence[float], per_decade: int, condition_decades: int = 2) -> float:
    """Return the steps to reduce all errors by 100 at the best rate, for curvatures from h/100 to h.

    Args:
        radii: Factor per step on a logarithmic grid of products lr h, with `per_decade` points per decade.
        per_decade: Number of points per decade.
        condition_decades: Decades between the largest and the smallest curvature.

    >>> round(fewest_steps([0.9, 0.5, 0.4, 0.6, 1.5], per_decade=1), 2)
    9.02
    """
    width = per_decade * condition_decades + 1
    worst = min(max(radii[start : start + width]) for start in range(len(radii) - width + 1))
    return math.log(100) / -math.log(worst) if worst < 1 else math.inf


def variances(zero: float, seeds: Sequence[int], lr: float, copies: int, samples: int) -> list[float]:
    """Return the stationary variance of a weight with curvature 1 and unit gradient noise, for each seed."""
    weights = stationary_weights(
        _creator(zero, lr), seeds, copies=copies, burn_in=300, samples=samples, every=60, key="zero"
    )
    return weights.square().mean(1).tolist()


def radii_map(zeros: Sequence[float], products: Sequence[float], steps: int) -> np.ndarray:
    """Return the measured factor per step for each zero (rows) and product lr h (columns)."""
    grid = torch.tensor(products, dtype=torch.float64)
    return np.array([contraction(zero, grid, steps).tolist() for zero in zeros])


def _creator(zero: float, lr: float = 1.0) -> Create:
    return lambda w: SGM.from_recipe(w, recipe_of(zero, lr))
