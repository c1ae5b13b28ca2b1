"""The experiment `lr-sensitivity`: widths of ranges, findings, and the outcome."""

import pytest
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import lr_sensitivity


def test_width_interpolates_in_the_logarithm_of_the_rate():
    rates, scores = [0.01, 0.1, 1.0, 10.0], [0.1, 0.8, 0.9, 0.1]
    assert lr_sensitivity.width(rates, scores, 2, margin=0.2) == (pytest.approx(1 + 0.1 / 0.7 + 0.25), False)


@pytest.mark.parametrize("scores", [[0.9, 0.9, 0.1], [0.1, 0.9, 0.9], [0.9, 0.9, 0.9]])
def test_width_that_reaches_an_end_of_the_rates_is_a_lower_bound(scores):
    value, truncated = lr_sensitivity.width([0.1, 1.0, 10.0], scores, 1, margin=0.1)
    assert truncated
    assert value >= 1


def test_width_of_a_seed_with_a_different_best_rate_contains_that_rate():
    """The best rate is chosen by other seeds; a better neighbour is within the margin."""
    value, _ = lr_sensitivity.width([0.1, 1.0, 10.0, 100.0], [0.0, 0.8, 0.9, 0.0], 1, margin=0.1)
    assert value > 1


@pytest.mark.slow
def test_lr_sensitivity_outcome_is_consistent_and_its_figures_show_data(tmp_path):
    outcome = experiments.run("lr-sensitivity", seeds=2, quick=True)
    check_outcome(outcome)
    check_page(outcome, tmp_path)
