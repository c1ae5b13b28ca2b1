"""The experiment `paths`: predictions against independent computations, and its findings."""

import math

import pytest
import torch
from outcome_checks import check_outcome, check_page

import dashpot as dp
from dashpot import experiments
from dashpot.experiments import paths_ravine
from dashpot.experiments.critical_points import MINIMA, find_critical_points, minima_share
from dashpot.experiments.paths_methods import METHODS, best_rate, path_of, settling_steps
from dashpot.experiments.simulation import descend_rates
from dashpot.tasks.surfaces import quadratic


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("paths", seeds=2, quick=True)


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def found(outcome, prefix):
    return {item.name.removeprefix(prefix): item for item in outcome.findings if item.name.startswith(prefix)}


@pytest.mark.parametrize("name", METHODS)
def test_descend_rates_equals_the_optimizer(name):
    """The paths of several rates equal those of optimizers with one rate."""
    start, rates = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64), [0.01, 0.1]
    paths = descend_rates(METHODS[name], rates, start, lambda w: 0.5 * w, 4)
    for index, lr in enumerate(rates):
        point = torch.nn.Parameter(start.clone())
        optimizer = dp.SGM.from_recipe([point], METHODS[name].with_settings(lr=lr))
        for step in range(4):
            point.grad = 0.5 * point.detach()
            optimizer.step()
            torch.testing.assert_close(point.detach(), paths[step + 1, index], rtol=1e-14, atol=0)  # rounding


def test_best_rate_is_the_one_with_the_fewest_steps():
    """Plain descent on w^2/2 multiplies w by 1 - lr, so that lr 0.9 needs the fewest steps."""
    start = torch.ones(1, 1, dtype=torch.float64)
    rates = torch.tensor([0.1, 0.9, 1.5, 2.5], dtype=torch.float64)
    best = best_rate(METHODS["plain"], lambda w: quadratic(w, torch.ones(1)), start, 4e-7, rates, 50)
    assert best == (0.9, [4.0])  # 0.1^6/2 = 5e-7 after three steps is above the target


def test_settling_ignores_values_below_the_target_that_rise_again():
    values = torch.tensor([[3.0], [0.5], [1.5], [0.5], [math.nan]])
    assert settling_steps(values, 1.0).tolist() == [math.inf]
    assert settling_steps(values[:4], 1.0).tolist() == [3.0]
    assert settling_steps(values[3:4], 1.0).tolist() == [0.0]


def test_sign_changes_agree_with_the_period(outcome):
    changes = found(outcome, "crossings-")
    assert [item.holds for item in changes.values()] == [True] * 3
    assert changes["plain"].measured > changes["momentum 0.5"].measured > changes["momentum 0.9"].measured


def test_adaptive_methods_do_not_depend_on_the_condition_number():
    start = paths_ravine.starts([0])
    # eps = 1e-8 relative to gradients above 1e-3
    assert paths_ravine.condition_change("RMSprop", start, rotated=False) < 1e-4
    assert paths_ravine.condition_change("RMSprop", start, rotated=True) > 0.1


def test_rotation_does_not_change_plain_descent():
    start = paths_ravine.starts([0, 1])
    path = path_of(METHODS["plain"], 0.5, paths_ravine.ravine(), start, 5)
    rotated = path_of(METHODS["plain"], 0.5, paths_ravine.ravine(rotated=True), paths_ravine.rotate_back(start), 5)
    torch.testing.assert_close(paths_ravine.rotate(rotated), path, rtol=1e-12, atol=1e-12)  # rounding


@pytest.mark.parametrize("dimension", MINIMA)
def test_share_of_minima_equals_the_exact_values(dimension):
    share = minima_share(dimension, 20_000, seed=0)
    assert share == pytest.approx(MINIMA[dimension], rel=0.05)  # weighted share of 20 000: standard error below 2 %


def test_newton_finds_as_many_extrema_as_saddles_in_two_dimensions():
    found = find_critical_points(2, 800, seed=0)
    total = sum(found)
    assert total > 50
    # by the Euler characteristic, up to the points cut off at the edge of the box: a multinomial fluctuation
    assert abs(found.minima + found.maxima - found.saddles) < 3 * math.sqrt(total)


@pytest.mark.slow
def test_paths_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("paths")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert [item.name for item in outcome.findings if not item.holds] == []
    check_page(outcome, tmp_path)
