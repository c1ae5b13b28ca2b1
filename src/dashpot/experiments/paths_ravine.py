"""Paths in a ravine: oscillation across it, steps to the minimum, and dependence on the condition number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.analysis import stability
from dashpot.data.seeding import generator
from dashpot.experiments.intervals import compared, mean_interval
from dashpot.experiments.paths_methods import METHODS, Best, Value, best_rate, path_of
from dashpot.experiments.progress import tracked
from dashpot.experiments.result import Finding
from dashpot.tasks.surfaces import quadratic, rosenbrock

EIGENVALUES = (1.0, 0.02)
START = (1.0, 10.0)
CROSSING_RATE = 1.8
"""Rate at which the oscillation across the ravine is measured; plain steps are stable below 2."""
TARGET = 1.5e-3
"""Loss to reach in the ravine, 1/1000 of the loss at the start."""
ROSENBROCK_TARGET = 0.1
LARGEST_RATE = {"RMSprop": 1.0, "Adam": 1.0}
"""Largest tried rate of the methods whose steps are in units of w; 40 for the others."""


def ravine(condition: float = EIGENVALUES[0] / EIGENVALUES[1], *, rotated: bool = False) -> Value:
    """Return a quadratic ravine along the second axis, or along the diagonal."""
    eigenvalues = torch.tensor([1.0, 1.0 / condition], dtype=torch.float64)
    return lambda w: quadratic(rotate(w) if rotated else w, eigenvalues)


def rotate(w: Tensor) -> Tensor:
    """Rotate rows by 45 degrees."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=w.dtype) / math.sqrt(2)
    return w @ turn


def rotate_back(w: Tensor) -> Tensor:
    """Rotate rows by -45 degrees."""
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=w.dtype) / math.sqrt(2)
    return w @ turn


def starts(seeds: Sequence[int]) -> Tensor:
    """Return a start in the ravine for each seed, with a random deviation of 10 %."""
    draws = [torch.randn(2, dtype=torch.float64, generator=generator("ravine", seed)) for seed in seeds]
    return torch.tensor(START, dtype=torch.float64) * (1 + 0.1 * torch.stack(draws))


def rosenbrock_starts(seeds: Sequence[int]) -> Tensor:
    """Return the start (-1.2, 1) with normal noise of standard deviation 0.1 for each seed."""
    draws = [torch.randn(2, dtype=torch.float64, generator=generator("rosenbrock", seed)) for seed in seeds]
    return torch.tensor([-1.2, 1.0], dtype=torch.float64) + 0.1 * torch.stack(draws)


def crossings_per_100_steps(name: str) -> float:
    """Return the predicted number of sign changes across the ravine in 100 steps at `CROSSING_RATE`."""
    period = stability(METHODS[name].with_settings(lr=CROSSING_RATE), EIGENVALUES[0]).period
    assert period is not None
    return 200 / period


def crossing_findings(seeds: Sequence[int], steps: int) -> list[Finding]:
    """Return the sign changes across the ravine and the decay per step, for plain steps and momentum."""
    start, rows = starts(seeds), []
    for name in ("plain", "momentum 0.5", "momentum 0.9"):
        across = path_of(METHODS[name], CROSSING_RATE, ravine(), start, steps)[..., 0]
        changes = (across[1:].sign() != across[:-1].sign()).sum(0) * (100 / steps)
        statement = f"sign changes in 100 steps at lr {CROSSING_RATE}, {name}"
        predicted = crossings_per_100_steps(name)
        slack = 100 / steps / predicted  # the count is exact within one sign change
        rows.append(compared(f"crossings-{name}", statement, changes.tolist(), predicted, tolerance=slack))
    return rows


def searched(seeds: Sequence[int], *, quick: bool) -> dict[str, dict[str, Best]]:
    """Return the best rate of every method in the ravine, in the rotated ravine and in Rosenbrock's valley."""
    start = starts(seeds)
    rates, limit = (6, 30) if quick else (80, 400)
    search: dict[str, Callable[..., Best]] = {
        "ravine": partial(best_rate, value=ravine(), start=start, target=TARGET, limit=limit),
        "rotated ravine": partial(
            best_rate, value=ravine(rotated=True), start=rotate_back(start), target=TARGET, limit=limit
        ),
    }
    if not quick:
        search["Rosenbrock"] = partial(
            best_rate, value=rosenbrock, start=rosenbrock_starts(seeds), target=ROSENBROCK_TARGET, limit=3000
        )
    return {
        place: {
            name: function(METHODS[name], rates=_rates(name, rates)) for name in tracked(METHODS, f"rates, {place}")
        }
        for place, function in search.items()
    }


def _rates(name: str, count: int) -> Tensor:
    return torch.logspace(-4, math.log10(LARGEST_RATE.get(name, 40.0)), count, dtype=torch.float64)


def speed_findings(found: dict[str, dict[str, Best]]) -> list[Finding]:
    """Return the steps to the target at the best rate; momentum holds if it needs fewer steps than plain descent."""
    rows = []
    for place, best in found.items():
        if place == "rotated ravine":
            continue
        for name in ("plain", "momentum 0.5", "momentum 0.9"):
            steps = best[name].steps
            if not all(map(math.isfinite, steps)):
                continue
            fewer = name == "plain" or _are_fewer(steps, best["plain"].steps)
            faster = min(("momentum 0.5", "momentum 0.9"), key=lambda item: sum(best[item].steps))
            limits = "" if name in ("plain", faster) else f"{faster} is faster here"
            statement = f"steps at the best rate, {place}, {name} (lr {best[name].lr:.3g})"
            rows.append(_measured(f"speed-{place}-{name}", statement, steps, fewer, limits))
    return rows


def _are_fewer(steps: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether the interval of `steps` is below that of `others`, which may be infinite."""
    return not all(map(math.isfinite, others)) or mean_interval(steps).high < mean_interval(others).low


def evenness_findings(seeds: Sequence[int], found: dict[str, dict[str, Best]]) -> list[Finding]:
    """Return first steps, dependence on the condition number, and steps to the target of adaptive methods."""
    start, rows = starts(seeds), []
    slopes = start * torch.tensor(EIGENVALUES, dtype=torch.float64)
    steepness = (slopes[:, 0] / slopes[:, 1]).abs()
    for name in ("plain", "RMSprop", "Adam"):
        first = path_of(METHODS[name], 0.01, ravine(), start, 1).diff(dim=0)[0]
        ratios = (first[:, 0] / first[:, 1]).abs().tolist()
        predicted = float(steepness.mean()) if name == "plain" else 1.0
        statement = f"first step across per first step along, {name}"
        # eps 1e-8 changes the steps of the adaptive methods by less than 1e-6
        rows.append(compared(f"first-{name}", statement, ratios, predicted, tolerance=1e-6, claim=1))
    for name in ("RMSprop", "Adam"):
        for rotated in (False, True):
            rows.append(_condition_finding(name, start, rotated=rotated))
    for place in ("ravine", "rotated ravine"):
        for name in ("plain", "RMSprop", "Adam"):
            steps = found[place][name].steps
            if all(map(math.isfinite, steps)):
                slower = sum(steps) > sum(found[place]["plain"].steps)
                limits = "more steps than plain descent at its best rate" if slower else ""
                statement = f"steps at the best rate, {place}, {name} (lr {found[place][name].lr:.3g})"
                rows.append(_measured(f"steps-{place}-{name}", statement, steps, True, limits, claim=1))
    return rows


def _condition_finding(name: str, start: Tensor, *, rotated: bool) -> Finding:
    change = condition_change(name, start, rotated=rotated)
    place = "rotated ravine" if rotated else "ravine along an axis"
    statement = f"change of the path from condition 50 to 5000, {name}, {place}"
    limits = "only in a ravine along an axis, the path does not depend on the condition number" if rotated else ""
    predicted = None if rotated else 0.0
    holds = rotated or change < 1e-4  # eps 1e-8 against gradients of 1e-3
    return Finding(f"condition-{name}-{rotated}", statement, change, change, change, predicted, holds, limits, claim=1)


def condition_change(name: str, start: Tensor, *, rotated: bool) -> float:
    """Return the largest difference between the paths at conditions 50 and 5000, relative to the start."""
    begin = rotate_back(start) if rotated else start
    paths = [
        path_of(METHODS[name], 0.05, ravine(condition, rotated=rotated), begin, 50) for condition in (50.0, 5000.0)
    ]
    return float((paths[0] - paths[1]).abs().max() / begin.abs().max())


def _measured(name: str, statement: str, values: Sequence[float], holds: bool, limits: str, claim: int = 0) -> Finding:
    mean, low, high = mean_interval(values)
    return Finding(name, statement, mean, low, high, None, holds, limits, claim)


def ravine_data(seed: int, found: dict[str, dict[str, Best]]) -> dict[str, Any]:
    """Return the paths of all methods from one start: at `CROSSING_RATE`, at the best rates, and in the valley."""
    start = starts([seed])
    shown: dict[str, Any] = {"same rate": {}, "best rate": {}, "Rosenbrock": {}}
    for name, recipe in METHODS.items():
        lr = CROSSING_RATE if name not in LARGEST_RATE else 0.05
        path = path_of(recipe, lr, ravine(), start, 25)[:, 0]
        shown["same rate"][name] = {"lr": lr, "path": path.tolist()}
        best = found["ravine"][name].lr
        path = path_of(recipe, best, ravine(), start, 25)[:, 0]
        shown["best rate"][name] = {"lr": best, "path": path.tolist()}
        if "Rosenbrock" in found:
            best = found["Rosenbrock"][name].lr
            path = path_of(recipe, best, rosenbrock, rosenbrock_starts([seed]), 400)[:, 0]
            shown["Rosenbrock"][name] = {"lr": best, "path": path.tolist()}
    return shown
