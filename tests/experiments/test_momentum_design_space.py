"""The experiment `momentum-design-space`: measured boundaries and speeds against independent computations."""

import math

import numpy as np
import pytest
import torch
from outcome_checks import check_findings, check_page

from dashpot import experiments
from dashpot.experiments import zero_on_quadratic as on_quadratic


def radius(zero, product, pole=0.9):
    a = product * (1 - pole) / (1 - zero)  # unit DC gain
    return max(abs(np.roots([1, -(1 + pole - a), pole - a * zero])))


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("momentum-design-space", seeds=2, quick=True)


def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_findings(outcome)


@pytest.mark.parametrize("zero", [-0.5, 0.4737])
def test_contraction_equals_the_largest_root(zero):
    products = torch.tensor([0.03, 0.5, 2.0, 2.9, 15.0], dtype=torch.float64)
    measured = on_quadratic.contraction(zero, products, 600)
    expected = torch.tensor([radius(zero, product) for product in products.tolist()])
    torch.testing.assert_close(measured, expected, rtol=5e-3, atol=0)  # amplitudes of oscillations over 40 steps


def test_largest_product_equals_the_boundary(outcome):
    measured = {f.name: f.measured for f in outcome.findings if f.name.startswith("boundary")}
    # 2(1+p)(1-q)/((1+q)(1-p)) = 38 and 2; the quick run sees growth over 120 steps only
    assert measured == pytest.approx({"boundary-0": 38.0, "boundary-0.9": 2.0}, rel=0.02)


def test_predicted_contraction_equals_the_largest_root():
    products = [0.01, 1.0, 30.0]
    expected = [radius(0.25, product) for product in products]
    assert on_quadratic.predicted_contraction(0.25, products) == pytest.approx(expected, rel=1e-9)  # rounding


def test_fewest_steps_of_plain_descent_is_that_of_the_best_rate():
    products = np.logspace(-3, 1, 401)
    radii = np.abs(1 - products).tolist()
    expected = math.log(100) / -math.log((100 - 1) / (100 + 1))  # lr = 2/(h + h/100)
    # grid of 100 points per decade: the best rate is hit up to 1.2 %
    assert on_quadratic.fewest_steps(radii, per_decade=100) == pytest.approx(expected, rel=0.02)


def test_fewest_steps_without_stable_rate_is_infinite():
    assert on_quadratic.fewest_steps([1.5] * 5, per_decade=1) == math.inf


@pytest.mark.slow
def test_momentum_design_space_full_run(tmp_path):
    outcome = experiments.run("momentum-design-space")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
    trains = {f.name: f.measured for f in outcome.findings if f.name.startswith("trains")}
    assert trains["trains-0.474"] > trains["trains-0.9"]
