"""Equivalent settings run the same weights, with real optimizers."""

import pytest
import torch

import dashpot as dp
from dashpot.analysis import RationalFilter, response

POINTS = (
    dp.HeavyBall.recipe_for(lr=0.1, momentum=0.8),
    dp.NAG.recipe_for(lr=0.1, momentum=0.8),
    dp.QHM.recipe_for(lr=0.3, momentum=0.9, nu=0.6),
    dp.Recipe(dp.Filter(0.8, normalise="none"), lr=0.2),
    dp.Recipe(dp.Filter(0.8, -0.5, gain=0.7, normalise="none"), lr=0.2),
    dp.Recipe(dp.Filter(0.5, 0.7, normalise="none"), lr=0.2),
    dp.SGD.recipe_for(lr=0.2),
)
EXPECTED = (
    {"torch_sgd", "average", "qhm", "length"},
    {"torch_sgd", "qhm"},
    {"qhm"},
    {"torch_sgd", "average", "qhm", "length"},
    set(),
    set(),
    {"torch_sgd", "average", "qhm", "length"},
)


def path(recipe):
    """Return the weights of 25 steps on a fixed sequence of gradients."""
    generator = torch.Generator().manual_seed(0)
    w = torch.zeros(2, dtype=torch.float64)
    state, found = dp.functional.init(recipe, w), []
    for step in range(25):
        grad = torch.randn(2, generator=generator, dtype=torch.float64) + w
        w, state = dp.functional.update(recipe, w, grad, state, step)
        found.append(w)
    return torch.stack(found)


BUILDERS = {
    "torch_sgd": dp.SGD.recipe_for,
    "average": lambda lr, beta: dp.Recipe(dp.Filter(beta, normalise="none"), lr=lr),
    "qhm": lambda lr, beta, nu: dp.QHM.recipe_for(lr=lr, momentum=beta, nu=nu),
    "autosgm": lambda lr, pole, zero: dp.Recipe(dp.Filter(pole, zero, normalise="none"), lr=lr),
    "filter": lambda lr, pole, zero, gain: dp.Recipe(dp.Filter(pole, zero, gain, normalise="none"), lr=lr),
    "length": lambda lr, steps: dp.Recipe(dp.Filter(dp.momentum_forms.pole_of_length(steps), normalise="none"), lr=lr),
}


@pytest.mark.parametrize(("recipe", "expected"), [*zip(POINTS, EXPECTED, strict=True)])
def test_equivalents_run_the_same_weights(recipe, expected):
    want = path(recipe)
    found = response(recipe).equivalents()
    assert {name for name, item in found.items() if item.settings} == expected | {"autosgm", "filter"}
    for name, item in found.items():
        if item.settings is None:
            assert item.note.endswith(".")
        else:
            assert (path(BUILDERS[name](**item.settings)) - want).abs().max() < 1e-12  # rounding; weights are near 1


def test_examples_are_batch_times_steps():
    found = response(dp.Adam.recipe_for(lr=0.1)).equivalents(batch=64)
    assert found["examples"].settings == pytest.approx({"lr": 0.1, "examples": 640.0})


def test_unknown_rate_gives_factor_on_lr():
    recipe = dp.Recipe(dp.Filter(0.5, gain=1.0, normalise="none"), dp.Parcor(), lr=0.1)
    assert response(recipe).equivalents()["average"].settings == {"lr": 2.0, "beta": 0.5}


@pytest.mark.parametrize(
    ("section", "name", "words"),
    [
        (RationalFilter((-0.3,), (0.9,)), "qhm", "nu would be 1.026, outside"),
        (RationalFilter((-0.3,), (0.0,)), "qhm", "the zero 0"),
        (RationalFilter((), (-0.5,)), "average", "pole is negative"),
        (RationalFilter((), (-0.5,)), "torch_sgd", "pole is negative"),
        (RationalFilter((0.3,), (0.9,)), "length", "has the zero 0"),
    ],
)
def test_missing_equivalents_give_the_reason(section, name, words):
    item = response(section).equivalents()[name]
    assert item.settings is None
    assert words in item.note
