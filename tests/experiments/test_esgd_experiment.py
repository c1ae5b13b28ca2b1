"""The experiment `esgd`: its methods and findings."""

import pytest
import torch
from outcome_checks import check_outcome, check_page

import dashpot as dp
from dashpot import experiments
from dashpot.experiments.esgd_runs import PLAIN, QUASI_HYPERBOLIC, cases


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("esgd", seeds=2, quick=True)


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def test_plain_esgd_divides_the_gradient_by_the_root_mean_square_of_the_products():
    """On (w_1^2 + 100 w_2^2)/2, every product has the magnitudes 1 and 100, so that the step is a Newton step."""
    w = torch.tensor([1.0, 1.0], requires_grad=True)
    optimizer = dp.ESGD([w], lr=0.5, eps=0.0, **PLAIN)
    optimizer.backward((w * w * torch.tensor([1.0, 100.0])).sum() / 2)
    optimizer.step()
    assert w.tolist() == pytest.approx([0.5, 0.5])


def test_quasi_hyperbolic_settings_are_those_of_qhm():
    """Without curvature and bias correction, ESGD-M's momentum is that of QHM's default settings."""
    found, default = cases()["ESGD-M QHM"].recipe.stages[0], cases()["QHM"].recipe.stages[1]
    assert (found.pole, found.zero) == pytest.approx((default.pole, default.zero))
    assert QUASI_HYPERBOLIC["v"] == 0.7


@pytest.mark.slow
def test_esgd_full_run(tmp_path):
    outcome = experiments.run("esgd")
    findings = {item.name: item for item in outcome.findings}
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert findings["ratio-ESGD-M"].high < 1
    assert findings["QHM over SGD"].high < 1 < findings["QHM over Nesterov"].low
    check_page(outcome, tmp_path)
