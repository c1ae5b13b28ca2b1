"""The experiment `three-optimizers`: steps to the target, and the outcome."""

import math

import pytest
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import three_optimizers


def test_steps_to_interpolate_the_logarithm_of_the_loss():
    losses = [2.0, 0.5, 0.05, 0.01]
    expected = 10 + 10 * math.log(0.5 / 0.1) / math.log(0.5 / 0.05)
    assert three_optimizers.steps_to([0, 10, 20, 30], losses, 0.1) == pytest.approx(expected)


def test_steps_to_first_crossing_count_if_the_loss_rises_again():
    assert three_optimizers.steps_to([0, 1, 2, 3], [1.0, 0.1, 1.0, 0.05], 0.1) == 1


def test_steps_to_unreached_target_are_all_steps():
    assert three_optimizers.steps_to([0, 10, 20], [2.0, 1.0, 0.5], 0.1) == 20


@pytest.mark.slow
def test_three_optimizers_outcome_is_consistent_and_its_figures_show_data(tmp_path):
    outcome = experiments.run("three-optimizers", seeds=2, quick=True)
    check_outcome(outcome)
    check_page(outcome, tmp_path)
