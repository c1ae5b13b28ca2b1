"""The experiment `averages`: closed forms against independent computations, and its findings."""

import numpy as np
import pytest
import torch
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import averages
from dashpot.experiments.simulation import filtered
from dashpot.stages import Filter


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("averages", seeds=2, quick=True)


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def found(outcome, prefix):
    return [finding for finding in outcome.findings if finding.name.startswith(prefix)]


@pytest.mark.parametrize("beta", averages.BETAS)
def test_closed_forms_equal_the_convolution(beta):
    weights = (1 - beta) * beta ** np.arange(int(40 / (1 - beta)))
    # truncated after 40 time constants: relative error exp(-40) times the number of terms
    assert np.sum(weights**2) == pytest.approx(averages.noise_gain(beta), rel=1e-12)
    assert np.sum(np.arange(len(weights)) * weights) == pytest.approx(averages.delay(beta), rel=1e-12)


def test_corrected_weights_equal_the_filter():
    points = torch.randn(30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = averages.corrected_weights(0.9, 30) @ points.flip(0)
    assert filtered(Filter(pole=0.9), points)[-1] == pytest.approx(float(expected), rel=1e-12)  # rounding


def test_noise_gain_falls_as_beta_rises(outcome):
    noise = [finding.measured for finding in found(outcome, "noise-gain")]
    assert noise == sorted(noise, reverse=True)
    for finding in found(outcome, "noise-gain"):
        # 100 series of 700 steps: 5 standard deviations of the variance at beta 0.9; 200 correlated steps at 0.99
        assert finding.measured == pytest.approx(finding.predicted, rel=0.3 if "0.99" in finding.name else 0.1)


def test_delay_is_exact(outcome):
    for finding in found(outcome, "delay"):
        assert finding.measured == pytest.approx(finding.predicted, rel=2e-6)  # exp(-16) of the ramp remains, 16 N long


def test_corrections_remove_the_bias_and_zero_start_has_it(outcome):
    for finding in [*found(outcome, "bias"), *found(outcome, "running-mean")]:
        # standard error of 100 points with sd 0.1 is 0.01; five of them
        assert finding.measured == pytest.approx(finding.predicted, abs=0.05)


def test_distance_to_the_curve_equals_the_prediction(outcome):
    for finding in found(outcome, "error"):
        assert finding.measured == pytest.approx(finding.predicted, rel=0.1)  # 100 correlated series of 100 points
    assert [bool(finding.limits) for finding in found(outcome, "error")] == [False, False, True, True]


@pytest.mark.slow
def test_averages_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("averages")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
