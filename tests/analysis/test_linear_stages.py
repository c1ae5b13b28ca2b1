"""Stability and variance against the transition matrix of the real stages, which is measured with unit vectors."""

import math
import random

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.analysis import stability, temperature
from dashpot.errors import ArgumentError

pytestmark = pytest.mark.filterwarnings("ignore:Decoupled weight decay")

LATE = 10**7  # step at which bias corrections and warm-up have ended
TINY = 1e-170  # scale of the vectors: squared gradients are 0, so that denominators are eps
NOISE = 1.7


def transition(recipe, curvature):
    """Return the matrix of one step of (w, memories of the filters), and the effect of a gradient of 1."""
    start = dp.functional.init(recipe, torch.zeros(1, dtype=torch.float64))
    start |= {"mu_product": torch.zeros((), dtype=torch.float64)} if "mu_product" in start else {}
    keys = [key for key in start if key in ("exp_avg", "momentum_buffer", "second")]

    def move(values, noise):
        w, *memories = (torch.tensor([TINY * value], dtype=torch.float64) for value in values)
        state = {**start, **dict(zip(keys, memories, strict=True))}
        w, state = dp.functional.update(recipe, w, curvature * w + noise * TINY, state, LATE)
        return [float(item) / TINY for item in (w, *(state[key] for key in keys))]

    size = 1 + len(keys)
    return np.array([move(unit, 0.0) for unit in np.eye(size)]).T, np.array(move(np.zeros(size), 1.0))


def variance(matrix, effect):
    """Return the stationary variance of w for white noise, the sum of the squared effects of one gradient."""
    total = np.outer(effect, effect)
    for _ in range(60):  # powers 1, 2, 4, ...
        total, matrix = total + matrix @ total @ matrix.T, matrix @ matrix
    return total[0, 0]


def denominator(recipe):
    found = [stage for stage in recipe.stages if isinstance(stage, (dp.SecondMoment, dp.CenteredMoment))]
    return math.prod(stage.eps for stage in found) if found else None


def compare(recipe, curvature):
    """Compare the results of a recipe with its transition matrix; return the errors of radius and variance."""
    d = denominator(recipe)
    result, (matrix, effect) = stability(recipe, curvature, denominator=d), transition(recipe, curvature)
    radius = abs(np.linalg.eigvals(matrix)).max()
    assert result.spectral_radius == pytest.approx(radius, rel=1e-6)  # a root of epsilon at a double eigenvalue
    assert result.stable == (radius < 1)
    for share in (0.999, 1.001) if result.largest_curvature else ():
        edge = abs(np.linalg.eigvals(transition(recipe, share * result.largest_curvature)[0])).max()
        assert (edge < 1) == (share < 1)
    if result.stable:
        found, exact = temperature(recipe, curvature, NOISE, denominator=d).variance, NOISE * variance(matrix, effect)
        # The sum over matrix powers loses about 1/(1 - radius) of its digits.
        assert found == pytest.approx(exact, rel=1e-8 / (1 - radius))
        return abs(result.spectral_radius - radius), abs(found / exact - 1)
    return abs(result.spectral_radius - radius), None


@pytest.mark.parametrize(
    "recipe",
    [
        dp.SGD.recipe_for(lr=0.2, momentum=0.8, dampening=0.5, weight_decay=0.3),
        dp.SGD.recipe_for(lr=0.2, momentum=0.8, nesterov=True),
        dp.QHM.recipe_for(lr=0.5, momentum=0.9, nu=1.0),
        dp.Recipe(dp.Filter(0.0, -2.0), dp.DecoupledDecay(0.1), lr=0.1),
        dp.Recipe(dp.Filter(0.5, 0.9), dp.CoupledDecay(0.0), lr=0.1),
        dp.Recipe(dp.Filter(0.9, normalise="running"), dp.DecoupledDecay(1.2, scale="constant"), lr=0.5),
        dp.Recipe(dp.Filter(0.9, 0.5, start="unscaled", normalise="none"), dp.ChangeDecay(0.3, factor=0.2), lr=0.5),
        dp.Recipe(dp.CoupledDecay(0.5), dp.Filter(0.9), dp.ChangeDecay(0.3), dp.DecoupledDecay(0.2), lr=0.5),
        dp.Recipe(dp.Filter(0.999), dp.ChangeDecay(0.01, factor=0.001), lr=0.1),
        dp.Recipe(dp.Filter(0.9), dp.Filter(0.7, 0.2, slot="second"), dp.DecoupledDecay(0.1), lr=0.2),
        dp.Recipe(dp.Filter(0.9), dp.Warmup(0.99), lr=0.3),
        dp.NAdam.recipe_for(lr=0.1, eps=0.3, weight_decay=0.2),
        dp.RMSprop.recipe_for(lr=0.1, eps=0.3, momentum=0.9, centered=True, weight_decay=0.2),
        dp.QHAdam.recipe_for(lr=0.1, eps=0.3, nus=(0.0, 1.0)).with_settings(pole=0.0, zero=0.0),
        dp.Recipe(dp.Filter(0.9, 0.5528, normalise="autosgm"), lr=0.1),
    ],
    ids=lambda recipe: repr(recipe)[7:60],
)
def test_closed_forms_equal_transition_of_stages(recipe):
    compare(recipe, 2.0)


def random_recipe(rng):
    """Return a recipe with up to two filters, all kinds of decay and a denominator."""

    def low_pass(slot):
        pole = rng.choice([0.0, rng.uniform(0, 0.98)])
        zero = rng.choice([0.0, pole / (1 + pole), rng.uniform(-3, 0.95), -1.0])
        kind = "none" if zero else rng.choice(["exact", "none", "autosgm", "memory", "running"])
        gain = rng.choice([None, rng.uniform(0.1, 2)]) if kind == "none" else None
        return dp.Filter(pole, zero, gain, normalise=kind, start=rng.choice(["zero", "first"]), slot=slot)

    scales = ["lr", "schedule", "constant"]
    stages = [
        (0.3, lambda: dp.CoupledDecay(rng.uniform(0, 1))),
        (0.2, lambda: dp.SecondMoment(0.99, eps=rng.uniform(0.1, 2))),
        (0.8, lambda: low_pass("exp_avg")),
        (0.2, lambda: low_pass("second")),
        (0.3, lambda: dp.ChangeDecay(rng.uniform(0, 1), factor=rng.choice([0.1, 1.0]), scale=rng.choice(scales))),
        (0.4, lambda: dp.DecoupledDecay(rng.choice([1.2, rng.uniform(0, 0.3)]), scale=rng.choice(scales))),
    ]
    return dp.Recipe(*(create() for share, create in stages if rng.random() < share), lr=rng.uniform(0.01, 1))


@pytest.mark.slow
def test_closed_forms_equal_transition_of_random_stages():
    rng, errors = random.Random(0), []
    for _ in range(300):
        recipe, curvature = random_recipe(rng), rng.uniform(0.01, 20)
        try:
            transition(recipe, curvature)
        except ArgumentError:  # the decay subtracts more than twice the weight
            continue
        errors.append(compare(recipe, curvature))
    variances = [error for _, error in errors if error is not None]
    print(
        f"{len(errors)} recipes, error of the radius at most {max(error for error, _ in errors):.1e}; "
        f"{len(variances)} stable, error of the variance at most {max(variances):.1e}"
    )
    assert len(errors) > 250
