"""Settings of Adam that do not depend on the batch size."""

import math

import pytest
import torch

import dashpot as dp
from dashpot.analysis import decouple, scale_batch
from dashpot.errors import ArgumentError


def test_settings_follow_the_corrected_formulas():
    found = decouple(lr0=2.0, N0=(640, 64_000), eps0=8e-4, B=64)
    assert found.horizons == (10, 1000)
    assert found.settings == {"lr": pytest.approx(1e-4 * 64 * 2.0), "betas": (0.9, 0.999), "eps": 1e-4}
    assert dp.Adam([torch.zeros(1, requires_grad=True)], **found.settings).current_lr() == found.lr


@pytest.mark.parametrize("batch", [1, 7, 64, 640, 1000, 10**6])
def test_horizons_are_at_least_one(batch):
    found = decouple(lr0=1.0, N0=(640, 64_000), eps0=1e-3, B=batch)
    assert found.horizons == (max(1, 640 / batch), max(1, 64_000 / batch))
    assert found.betas == (pytest.approx(1 - 1 / found.horizons[0]), pytest.approx(1 - 1 / found.horizons[1]))
    assert ("cannot decrease further" in found.summary()) == (batch >= 640)


def test_single_horizon_applies_to_both_averages():
    assert decouple(1.0, 100, 1e-3, 10) == decouple(1.0, (100, 100), 1e-3, 10)


@pytest.mark.parametrize(("before", "after"), [(1, 16), (4, 64), (32, 8)])
def test_equals_the_square_root_rule(before, after):
    one, two = (decouple(lr0=1.5, N0=(640, 64_000), eps0=1e-3, B=batch) for batch in (before, after))
    scaled = scale_batch(dp.Adam.recipe_for(**one.settings), before, after).settings
    given = {"lr": two.lr, "pole": two.betas[0], "beta": two.betas[1], "eps": two.eps}
    assert scaled == {name: pytest.approx(value, rel=1e-10) for name, value in given.items()}  # roundings to 12 digits


def test_step_is_the_linear_rule_if_eps_dominates():
    for batch in (1, 64):
        found = decouple(lr0=1e-3, N0=(1, 1), eps0=1e9, B=batch)
        w = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        w.grad = torch.tensor([0.5], dtype=torch.float64)
        dp.SGM.from_recipe([w], found.recipe, engine="eager").step()
        # g/eps is below 1e-8
        assert 1.0 - w.item() == pytest.approx(batch * 1e-3 * 0.5, rel=1e-7)


def test_rate_is_proportional_to_the_batch_in_noise():
    rates = []
    for batch in (1, 64):
        found = decouple(lr0=1e-3, N0=(640, 64_000), eps0=1e-6, B=batch)
        rates.append(found.lr / (1.0 / math.sqrt(batch) + found.eps))
    assert rates[1] == pytest.approx(64 * rates[0], rel=1e-12)


def test_recipe_has_running_averages():
    first, second = decouple(lr0=1.0, N0=(640, 64_000), eps0=1e-3, B=64).recipe.stages
    assert (first.normalise, first.pole, second.average, second.beta) == ("running", 0.9, "running", 0.999)


def test_corrections_state_the_printed_values():
    found = decouple(lr0=2.0, N0=(640, 64_000), eps0=8e-4, B=64)
    printed = {item.printed: item.printed_value for item in found.corrections}
    assert printed["min(1, N_g0/B)"] == 1
    assert printed["eps0 sqrt(B)"] == pytest.approx(6.4e-3)
    assert printed["eps B lr0, eps = eps0 sqrt(B)"] == pytest.approx(6.4e-3 * 64 * 2.0)
    # 64^1.5 in place of 64^0.5
    assert printed["eps B lr0, eps = eps0 sqrt(B)"] / found.lr == pytest.approx(64)
    assert found.to_dict()["printed_eps"] == pytest.approx(6.4e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr0": 0.0}, r"decouple: lr0 must be a number in \(0, inf\), got 0.0"),
        ({"eps0": -1e-3}, r"decouple: eps0 must be a number in \(0, inf\), got -0.001"),
        ({"B": 0}, r"decouple: B must be an integer in \[1, inf\), got 0"),
        ({"B": 2.5}, r"decouple: B must be an integer in \[1, inf\), got 2.5"),
        ({"N0": 0.5}, r"decouple: N0 must be a number in \[1, inf\) or a pair of such numbers, got 0.5"),
        ({"N0": (10, 0)}, r"got \(10, 0\)"),
        ({"N0": (1, 2, 3)}, r"got \(1, 2, 3\)"),
        ({"N0": "10"}, "got '10'"),
    ],
)
def test_invalid_argument_raises(change, message):
    with pytest.raises(ArgumentError, match=message):
        decouple(**{"lr0": 1.0, "N0": 100, "eps0": 1e-3, "B": 8, **change})


def test_plot_returns_figure_of_given_axes():
    found = decouple(1.0, (640, 64_000), 1e-3, 64)
    figure = found.plot()
    assert found.plot(figure.axes[0]) is figure
