"""The experiment `l2-vs-decoupled`: closed forms against independent computations, and its findings."""

import math

import numpy as np
import pytest
from outcome_checks import check_page

from dashpot import experiments
from dashpot.experiments import l2_simulations as simulations
from dashpot.experiments import l2_vs_decoupled as experiment
from dashpot.experiments.l2_simulations import DECAY


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("l2-vs-decoupled", seeds=2, quick=True)


def found(outcome, prefix):
    return [finding for finding in outcome.findings if finding.name.startswith(prefix)]


@pytest.mark.parametrize("ratio", experiment.RATIOS)
def test_l2_term_equals_a_plain_simulation(ratio):
    """The sum of squares of lambda w + noise is t (sigma^2 + (lambda w)^2) in the mean."""
    noise = np.random.default_rng(0).standard_normal((400, 400))
    terms = ratio / np.sqrt(((noise + ratio) ** 2).mean(0))
    assert terms.mean() == pytest.approx(experiment.l2_term(ratio), rel=0.01)  # 3/8 of the relative variance 2/400


def momentum_variance(scale):
    """Return the variance of w under m <- .9 m + .1 (w + noise), w <- w - a m with a = lr/d, d = strength/lambda."""
    rate = simulations.STATIONARY_RATE * DECAY / experiment.stationary_strength(scale)
    step = np.array([[1 - 0.1 * rate, -0.9 * rate], [0.1, 0.9]])
    noise = scale * np.array([[-0.1 * rate], [0.1]])
    system = np.eye(4) - np.kron(step, step)  # covariance = step covariance step^T + noise noise^T
    return np.linalg.solve(system, (noise @ noise.T).ravel())[0]


@pytest.mark.parametrize("scale", experiment.STATIONARY_SCALES)
def test_stationary_strength_solves_the_fixed_point(scale):
    strength = experiment.stationary_strength(scale)
    weight = 1 / (1 + strength)  # stationary point of a quadratic with curvature 1, minimum 1 and this L2 coefficient
    d = math.sqrt(scale**2 + momentum_variance(scale) + (weight - 1) ** 2)
    assert (weight - 1) / d + DECAY * weight == pytest.approx(0, abs=1e-8)  # 12 iterations


def test_adagrad_terms_follow_the_prediction(outcome):
    for finding in found(outcome, "adagrad"):
        # 60 gradients: the root of their mean square is off by 3/8 of 2/60, and 40 runs by three standard errors
        assert finding.measured == pytest.approx(finding.predicted, rel=0.08)


def test_l2_term_is_constant_only_where_it_dominates(outcome):
    terms = [finding.measured for finding in found(outcome, "adagrad")]
    assert terms[-1] / terms[-2] == pytest.approx(1, abs=0.02)  # independent of the weight
    assert terms[1] / terms[0] == pytest.approx(10, rel=0.08)  # proportional to the weight; 40 runs of 60 gradients


def test_adamw_shrinks_all_weights_equally(outcome):
    measured = [
        finding.measured
        for finding in outcome.findings
        if finding.name.startswith("adamw-") and not finding.name.startswith("adamw-strength")
    ]
    assert measured == pytest.approx([1.0] * 4, rel=2e-5)  # log(1 - lr lambda) against -lr lambda; pairs of runs cancel


def test_adam_shrinks_weights_with_large_gradients_less(outcome):
    measured = [
        finding.measured
        for finding in outcome.findings
        if finding.name.startswith("adam-") and not finding.name.startswith("adam-strength")
    ]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] / measured[-1] > 50


def test_damping_equals_the_spectral_radius(outcome):
    rows = [*found(outcome, "oscillating"), *found(outcome, "overdamped"), *found(outcome, "point")]
    assert len(rows) == 8
    for finding in rows:
        assert finding.measured == pytest.approx(
            finding.predicted, abs=1e-6
        )  # (.91/.989)^300 of the faster mode remains


def test_rho_over_eta_gives_equal_paths_only_for_equal_pole_and_zero(outcome):
    equal, different = found(outcome, "paths")
    assert equal.measured < 1e-12  # rounding
    assert different.measured > 0.1


def test_noise_free_path_equals_the_recursion():
    """Momentum is the average with pole .9 over the step response 1 - .9^t."""
    path = simulations.noise_free_path(experiment._decays(0.2)["coupled"], 1.0, 20)
    w, m, expected = 0.0, 0.0, [0.0]
    for t in range(1, 21):
        m = 0.9 * m + 0.1 * ((w - 1) + 0.2 * w)
        w -= m / (1 - 0.9**t)
        expected.append(w)
    assert path == pytest.approx(expected, abs=1e-12)  # rounding


@pytest.mark.slow
def test_l2_vs_decoupled_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("l2-vs-decoupled")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
