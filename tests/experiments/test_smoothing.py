"""The experiment `smoothing`: smoothed gradients and the digits network against torch, and the findings."""

import pytest
import torch
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.data import digits
from dashpot.experiments import smoothing, smoothing_digits
from dashpot.experiments.rough_loss import rough_loss


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("smoothing", seeds=2, quick=True)


@pytest.fixture(scope="module")
def findings(outcome):
    return {item.name: item for item in outcome.findings}


def test_outcome_is_consistent_and_its_figures_show_data(outcome):
    check_outcome(outcome)


def test_gradient_equals_automatic_differentiation():
    loss = rough_loss([0, 1], 5)
    w = loss.start.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss.value(w).sum(), w)
    torch.testing.assert_close(loss.gradient(loss.start), expected, rtol=1e-13, atol=1e-13)  # rounding


def test_smoothed_gradient_equals_the_mean_over_normal_displacements():
    """By Gauss-Hermite quadrature, which is exact to rounding for the ripple at this width."""
    import numpy as np

    loss, sd = rough_loss([0], 5), 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    parts = zip(nodes.tolist(), (weights / weights.sum()).tolist(), strict=True)
    expected = sum(weight * loss.gradient(loss.start + sd * node) for node, weight in parts)
    torch.testing.assert_close(loss.gradient(loss.start, sd), expected, rtol=1e-12, atol=1e-12)


def test_recorded_gradients_equal_those_of_a_module():
    recorded = smoothing_digits.record(0, 1, images=20)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)).double()
    random = smoothing_digits.generator("smoothing", 0)
    first = torch.randn(64 * 32, dtype=torch.float64, generator=random) / 8
    second = torch.randn(32 * 10, dtype=torch.float64, generator=random) / 32**0.5
    with torch.no_grad():
        net[0].weight.copy_(first.view(64, 32).T)
        net[2].weight.copy_(second.view(32, 10).T)
        net[0].bias.zero_()
        net[2].bias.zero_()
    data = digits.load()
    x = torch.tensor(data.train_images[:20]).flatten(1).double() / 8 - 1
    loss = torch.nn.functional.cross_entropy(net(x), torch.tensor(data.train_labels[:20]).long())
    grads = torch.autograd.grad(loss, [net[0].weight, net[2].weight, net[0].bias, net[2].bias])
    expected = torch.cat([grads[0].T.flatten(), grads[1].T.flatten(), grads[2], grads[3]])
    torch.testing.assert_close(recorded.full[0], expected, rtol=1e-10, atol=1e-14)  # rounding


def test_filtered_gradient_is_the_gradient_of_the_averaged_loss(findings):
    assert findings["identity"].measured < 1e-13


def test_ripple_and_speed_agree_with_the_closed_forms(findings):
    for name in ("ripple-0.5", "ripple-0.9"):
        # 40 periods are not a whole number of steps: relative error below 1e-3
        assert findings[name].measured == pytest.approx(findings[name].predicted, rel=1e-3)
    for name in ("speed-0.5", "speed-0.9"):
        assert findings[name].measured == pytest.approx(findings[name].predicted, rel=1e-6)  # the other root decays


def test_filtered_gradient_is_closer_to_the_smoothed_loss_only_at_the_small_rate(findings):
    slow = (findings[f"cosine-{name}-0.9-0.02"].measured for name in ("filtered", "plain"))
    fast = (findings[f"cosine-{name}-0.9-0.1"].measured for name in ("filtered", "plain"))
    assert next(slow) > next(slow)
    assert next(fast) < next(fast)


@pytest.mark.slow
def test_smoothing_full_run_holds_with_limits(tmp_path):
    outcome = experiments.run("smoothing")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert [item.name for item in outcome.findings if not item.holds] == []
    assert outcome.claims == smoothing.CLAIMS
    check_page(outcome, tmp_path)
