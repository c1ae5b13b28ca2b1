"""The experiment `rescaling`: its problem and paths against torch, and its findings."""

import pytest
import torch
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import rescaling
from dashpot.optimizers.torch_compatible import SGD


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("rescaling", seeds=2, quick=True)


@pytest.fixture(scope="module")
def findings(outcome):
    return {item.name: item for item in outcome.findings}


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def test_loss_equals_the_network():
    problem = rescaling.Regression(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    w = problem.start
    with torch.no_grad():
        net[0].weight.copy_(w[:48].view(6, 8).T)
        net[0].bias.copy_(w[48:56])
        net[2].weight.copy_(w[56:64])
        net[2].bias.copy_(w[64])
        expected = torch.nn.functional.mse_loss(net(problem.x)[:, 0], problem.y)
    assert float(problem.loss(w)) == pytest.approx(float(expected), rel=1e-14)  # rounding


def test_path_in_original_units_equals_rescaled_gradient_descent():
    """w' = n w with the gradient g/n: in the original units, a rate lr moves w by lr g/n^2."""
    problem, method = rescaling.Regression(0), rescaling.Method(SGD, 0.1, 0)
    path = rescaling.path(method, problem, 2, factor=3.0, n=2.0, scale=5.0)
    w = problem.start.clone()
    for step in range(2):
        w.requires_grad_()
        (grad,) = torch.autograd.grad(problem.loss(w), w)
        w = (w - 0.1 * 3.0 * 5.0 / 2.0**2 * grad).detach()
        torch.testing.assert_close(path[step + 1], w, rtol=1e-14, atol=1e-15)  # rounding


@pytest.mark.parametrize("name", ["SGD", "Adam", "ESGD"])
def test_laws_hold_exactly(findings, name):
    assert findings[f"parameters-{name}"].high == 0
    assert findings[f"loss-{name}"].high == 0


def test_sophia_deviates_for_rescaled_parameters(findings):
    assert findings["loss-Sophia"].high == 0
    assert findings["parameters-Sophia"].measured > 0.1
    assert findings["parameters-Sophia"].limits


def test_unchanged_rates_deviate(findings):
    for name in ("unchanged-parameters-SGD", "unchanged-loss-SGD", "unchanged-parameters-Adam"):
        assert findings[name].measured > 0.1


@pytest.mark.slow
def test_rescaling_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("rescaling", seeds=2)
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert [item.name for item in outcome.findings if not item.holds] == []
    check_page(outcome, tmp_path)
