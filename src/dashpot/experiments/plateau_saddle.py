"""Steps to leave a saddle in the plane and to cross a plateau of constant slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.data.seeding import generator
from dashpot.experiments.intervals import compared, mean_interval
from dashpot.experiments.paths_methods import HEAVY_BALL, METHODS, gradient_of, path_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Finding
from dashpot.experiments.simulation import descend, descend_rates
from dashpot.recipes.recipe import Recipe
from dashpot.tasks.surfaces import saddle

LR = 0.02
LEVEL = 0.5
"""A run has left the saddle when abs(b) reaches this level; the minima are at 1 and -1."""
SLOPE = 0.01
"""Slope of the plateau, whose width is 1."""
COMPARED: dict[str, Recipe] = {
    "plain": METHODS["plain"],
    "momentum 0.9": METHODS["momentum 0.9"],
    "heavy ball 0.9": HEAVY_BALL,
    "RMSprop": METHODS["RMSprop"],
    "Adam": METHODS["Adam"],
}
SLOWER = "an average of gradients with the same rate is not faster than plain descent; its advantage is a higher rate"
FASTER = "faster because its effective rate is 10 times higher"
NEAR = 0.5
"""Largest distance from a minimum, along b, at the end of a run at a usable rate."""


def saddle_starts(seeds: Sequence[int], count: int) -> Tensor:
    """Return starts (1, 0) with normal noise of standard deviation 0.01, of shape (seeds, count, 2)."""
    draws = [torch.randn(count, 2, dtype=torch.float64, generator=generator("saddle", seed)) for seed in seeds]
    return torch.tensor([1.0, 0.0], dtype=torch.float64) + 0.01 * torch.stack(draws)


def escape_steps(recipe: Recipe, rates: Sequence[float], start: Tensor, steps: int) -> Tensor:
    """Return the number of steps until abs(b) reaches `LEVEL`, of shape (rates, *start.shape[:-1]).

    The result is inf if abs(b) does not reach the level, or is farther than `NEAR` from 1 after `steps` steps.
    """
    rows = start.flatten(0, -2)
    b = descend_rates(recipe, rates, rows, gradient_of(saddle), steps)[..., 1].abs()
    usable = (b[-1] - 1).abs() <= NEAR  # False for NaN
    first = torch.where(usable, (b >= LEVEL).int().argmax(0), math.inf)
    return first.unflatten(1, start.shape[:-1]).double()


def predicted_escape(beta: float, rate: float, start: Tensor) -> Tensor:
    """Return the number of steps until abs(b) reaches `LEVEL`, from the growth of small deviations.

    Near the saddle, b grows as A z^t with the larger root z of z^2 - (1 + beta - a) z + beta, a = -(1 - beta) rate,
    and A = b_0 (1 - a - z')/(z - z') with the other root z', since the first step is -a b_0. The slower growth near the
    minimum, db/dt = b - b^3, raises the level from 1/2 to 1/sqrt(3).

    Args:
        beta: Pole of averaged momentum, 0 for plain descent.
        rate: Effective rate, the rate of the average.
        start: Values of b at the start.
    """
    half = (1 + beta + (1 - beta) * rate) / 2
    root = math.sqrt(half**2 - beta)
    first, second = half + root, half - root
    amplitude = start.abs() * (1 + (1 - beta) * rate - second) / (first - second)
    return (math.log(LEVEL / math.sqrt(1 - LEVEL**2)) - amplitude.log()) / math.log(first)


def saddle_findings(seeds: Sequence[int], *, quick: bool) -> list[Finding]:
    """Return the mean steps to leave the saddle."""
    start = saddle_starts(seeds, 4 if quick else 100)
    names = ("plain", "momentum 0.9", "heavy ball 0.9", "Adam") if quick else tuple(COMPARED)
    rows, plain = [], 0.0
    for name in tracked(names, "saddle"):
        steps = escape_steps(COMPARED[name], [LR], start, 400 if quick else 1000)[0].mean(1).tolist()
        plain = plain or sum(steps)
        statement = f"steps to leave the saddle, {name}"
        beta, rate = {"plain": (0.0, LR), "momentum 0.9": (0.9, LR), "heavy ball 0.9": (0.9, 10 * LR)}.get(
            name, (None, None)
        )
        limits = {"momentum 0.9": SLOWER, "heavy ball 0.9": FASTER}.get(name, "")
        if beta is not None and rate is not None:
            predicted = float(predicted_escape(beta, rate, start[..., 1]).mean())
            # the first whole step is on average half a step late, and the linear growth is approximate
            tolerance = 0.5 / predicted + 0.05
            rows.append(compared(f"saddle-{name}", statement, steps, predicted, tolerance=tolerance, limits=limits))
        else:
            mean, low, high = mean_interval(steps)
            rows.append(Finding(f"saddle-{name}", statement, mean, low, high, None, sum(steps) < plain, limits, 1))
    return rows


def predicted_plateau(name: str) -> float:
    """Return the number of steps over a distance of 1 with the constant gradient `SLOPE`."""
    if name == "Adam":  # every step is lr/(1 + eps/SLOPE) with eps 1e-8
        return math.ceil((1 + 1e-8 / SLOPE) / LR)
    if name == "RMSprop":  # torch does not correct the average: the step is lr/sqrt(1 - 0.99^t)
        travelled = torch.cumsum(LR / (1 - 0.99 ** torch.arange(1, 2000, dtype=torch.float64)).sqrt(), 0)
        return 1.0 + int((travelled < 1).sum())
    plain = 1 / (LR * SLOPE) / (10 if name == "heavy ball 0.9" else 1)
    return plain + (0 if name == "plain" else 9)


def plateau_findings() -> list[Finding]:
    """Return the steps over a plateau of width 1; the runs are deterministic."""
    rows = []
    for name in tracked(COMPARED, "plateau"):
        steps, predicted = plateau_steps(COMPARED[name]), predicted_plateau(name)
        limits = {"momentum 0.9": SLOWER, "heavy ball 0.9": FASTER}.get(name, "")
        statement = f"steps over the plateau, {name}"
        holds = abs(steps - predicted) <= 1  # the predictions are rounded to whole steps
        rows.append(Finding(f"plateau-{name}", statement, steps, steps, steps, predicted, holds, limits, _claim(name)))
    return rows


def _claim(name: str) -> int:
    """Return the index of the claim on momentum, or of that on methods with a denominator."""
    return 1 if name in {"RMSprop", "Adam"} else 0


def plateau_steps(recipe: Recipe) -> float:
    """Return the number of steps until a run with the constant gradient `SLOPE` has moved by 1."""
    gradient = partial(torch.full_like, fill_value=SLOPE)
    start, steps = torch.zeros(1, dtype=torch.float64), round(1.2 / (LR * SLOPE))
    path = descend(recipe.with_settings(lr=LR), start, gradient, steps)
    return float((path.flatten() > -1 + 1e-9).sum())


def saddle_data(seed: int, steps: int) -> dict[str, Any]:
    """Return the paths of all methods from one start next to the saddle."""
    start = saddle_starts([seed], 1)[0]
    return {name: path_of(recipe, LR, saddle, start, steps)[:, 0].tolist() for name, recipe in COMPARED.items()}
