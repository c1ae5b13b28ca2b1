"""`dp.Adagrad` and `SecondMoment(average="sum")` against plain loops and torch."""

import math
from typing import Any

import pytest
import torch
from contracts.trajectories import distance, parameters, run

import dashpot as dp

ROUNDING = 1e-13
"""Relative error of 20 steps in float64 whose operations may be rounded in a different order."""


def trajectory(gradients, lr, lr_decay=0.0, initial=0.0, eps=1e-10, decay=0.0, beta=1.0):
    """Return the weight after each step, from 1, with the textbook recursion on Python floats."""
    w, s, out = 1.0, initial, []
    for t, gradient in enumerate(gradients, start=1):
        g = gradient + decay * w
        s = beta * s + g * g
        w -= lr / (1 + (t - 1) * lr_decay) * g / (math.sqrt(s) + eps)
        out.append(w)
    return out


def steps(optimizer, w, gradients):
    out = []
    for gradient in gradients:
        w.grad = torch.full_like(w, gradient)
        optimizer.step()
        out.append(w.item())
    return out


GRADIENTS = [math.sin(3 * k) + 0.2 for k in range(20)]


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize(
    "settings", [{}, {"lr_decay": 0.3, "initial": 0.5, "decay": 0.1}, {"initial": 2.0, "eps": 0.1}], ids=str
)
def test_adagrad_equals_the_textbook_recursion(engine, settings):
    names: dict[str, str] = {"initial": "initial_accumulator_value", "decay": "weight_decay"}
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {names.get(name, name): value for name, value in settings.items()}
    optimizer = dp.Adagrad([w], lr=0.1, engine=engine, **options)
    assert steps(optimizer, w, GRADIENTS) == pytest.approx(trajectory(GRADIENTS, 0.1, **settings), rel=ROUNDING)
    assert set(optimizer.state[w]) == {"step", "sum"}


@pytest.mark.parametrize("beta", [0.0, 0.7, 1.0])
def test_sum_with_any_pole_equals_the_recursion(beta):
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    recipe = dp.Recipe(dp.SecondMoment(beta, 1e-3, average="sum", initial=0.3), lr=0.1)
    expected = trajectory(GRADIENTS, 0.1, initial=0.3, eps=1e-3, beta=beta)
    assert steps(dp.SGM.from_recipe([w], recipe), w, GRADIENTS) == pytest.approx(expected, rel=ROUNDING)


def test_sum_is_the_plain_average_times_its_gain():
    """For beta < 1, s is 1/(1 - beta) times the plain average, so that lr is rescaled by its root."""
    params, others = parameters(torch.float64), parameters(torch.float64)
    beta = 0.75
    run(dp.SGM.from_recipe(params, dp.Recipe(dp.SecondMoment(beta, 0.0, average="sum"), lr=0.2)), params, 8)
    plain = dp.Recipe(dp.SecondMoment(beta, 0.0, average="plain"), lr=0.2 * math.sqrt(1 - beta))
    run(dp.SGM.from_recipe(others, plain), others, 8)
    assert distance(params, others) < ROUNDING


def test_rate_decay_equals_the_schedule_inverse_time():
    params, others = parameters(torch.float64), parameters(torch.float64)
    run(dp.SGM.from_recipe(params, dp.Recipe(dp.RateDecay(0.25), lr=0.2)), params, 8)
    for step in range(8):
        run(dp.SGD(others, lr=0.2 / (1 + 0.25 * step)), others, [step])
    assert distance(params, others) < ROUNDING


def test_initial_value_of_a_group_applies_to_its_parameters():
    """Unlike torch, which uses the value of the constructor for every group."""
    first, second = (torch.zeros(2, requires_grad=True) for _ in range(2))
    optimizer = dp.Adagrad([{"params": [first], "initial_accumulator_value": 0.5}, {"params": [second]}], eps=0.0)
    for p in (first, second):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[first]["sum"].tolist() == [1.5, 1.5]
    assert optimizer.state[second]["sum"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize(("saving", "loading"), [(torch.optim, dp), (dp, torch.optim)])
def test_checkpoints_of_torch_and_dashpot_are_interchangeable(saving, loading, steps_before):
    """torch creates the state at construction, so that its checkpoints contain state before the first step."""
    settings: dict[str, Any] = {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2, "weight_decay": 0.1}
    params, straight = parameters(torch.float64), parameters(torch.float64)
    first = saving.Adagrad(params, **settings)
    run(first, params, steps_before)
    second = loading.Adagrad(params, **settings)
    second.load_state_dict(first.state_dict())
    run(second, params, range(steps_before, 6))
    run(torch.optim.Adagrad(straight, **settings), straight, 6)
    assert distance(params, straight) < ROUNDING


def test_complex_initial_value_applies_to_real_and_imaginary_part():
    settings: dict[str, Any] = {"lr": 0.1, "initial_accumulator_value": 0.5}
    params, others = parameters(torch.complex128), parameters(torch.complex128)
    run(dp.Adagrad(params, **settings), params, 4)
    run(torch.optim.Adagrad(others, **settings), others, 4)
    assert distance(params, others) < ROUNDING


def test_schedule_of_the_initial_value_raises():
    schedule = {"initial_accumulator_value": dp.schedules.Exponential(0.9)}
    with pytest.raises(dp.ArgumentError, match=r"^Adagrad: schedule must not contain initial_accumulator_value"):
        dp.Adagrad([torch.zeros(1)], schedule=schedule)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"beta": 1.0}, r"beta must be a number in \[0, 1\) with average='debiased', got 1\.0"),
        ({"average": "running", "initial": 0.5}, r"initial must be 0 with average='running', got 0\.5"),
        ({"average": "sum", "initial": -1.0}, r"initial must be a number in \[0, inf\), got -1\.0"),
    ],
)
def test_second_moment_with_invalid_combination_raises(settings, text):
    with pytest.raises(dp.ArgumentError, match=f"^SecondMoment: {text}\\.$"):
        dp.SecondMoment(**settings)


def test_initial_value_is_part_of_the_description():
    recipe = dp.Adagrad([torch.zeros(1)], initial_accumulator_value=0.5).recipe
    assert dp.Recipe.from_dict(recipe.to_dict()) == recipe
    assert "initial" not in dp.SecondMoment().to_dict()  # earlier versions do not have this setting
