"""The experiment `numerators`: its settings and findings."""

import pytest
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments.numerators_runs import cases
from dashpot.experiments.tuned_sweep import grid


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("numerators", seeds=2, quick=True)


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def test_warm_up_case_has_the_ramp_of_the_average():
    case = cases()["0-warm"]
    assert case.factor(0) == pytest.approx(1e-4)
    assert case.factor(299) == pytest.approx(0.0295558, rel=1e-5)
    assert cases()["0"].factor(0) == 1.0


def test_moment_numerator_starts_below_its_learning_rate(outcome):
    ratios = {item.name: item.measured for item in outcome.findings}
    assert ratios["applied-3"] < ratios["ratio-3"]


def test_grid_has_four_rates_per_decade():
    assert grid(0.1, 9)[::4] == (0.1, 1.0, 10.0)


@pytest.mark.slow
def test_numerators_full_run(tmp_path):
    outcome = experiments.run("numerators")
    findings = {item.name: item for item in outcome.findings}
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert findings["ratio-3"].low > 10 * findings["applied-3"].high
    assert findings["ratio-0-warm"].low > 10 * findings["ratio-0-warm-short"].high
    check_page(outcome, tmp_path)
