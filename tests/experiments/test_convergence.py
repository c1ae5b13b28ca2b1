"""The experiment `convergence`: losses and predictions against independent computations."""

import math

import numpy as np
import pytest
import torch
from outcome_checks import check_findings, check_page

from dashpot import experiments
from dashpot.experiments import counterexamples, vanishing_rates
from dashpot.experiments import physicists_argument as argument
from dashpot.experiments.stacked_network import StackedNetwork, digit_vectors
from dashpot.tasks.surfaces import spectrum


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("convergence", seeds=2, quick=True)


def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_findings(outcome)


def saddle_loss(w):
    return w[0].square() / 2 + (w[1].square() - 1).square() / 4


@pytest.mark.parametrize(
    ("loss", "gradient", "point"),
    [
        (lambda w: torch.log1p(torch.exp(-w)), counterexamples.escaping_gradient, [-2.0, 0.5, 3.0]),
        (saddle_loss, counterexamples.saddle_gradient, [[0.3, -1.0], [0.2, 1.5]]),
        (counterexamples.spiral_loss, counterexamples.spiral_gradient, [[1.2, -0.9], [0.5, -1.1]]),
    ],
)
def test_gradient_equals_autograd(loss, gradient, point):
    w = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(loss(w).sum(), w)[0]
    torch.testing.assert_close(gradient(w.detach()), expected, rtol=1e-12, atol=1e-14)  # rounding


def test_losses_of_the_counterexamples_are_not_negative():
    angle, d = torch.meshgrid(torch.linspace(-3.1, 3.1, 40), torch.linspace(1e-3, 1.0, 40), indexing="ij")
    w = torch.stack([(1 + d) * angle.cos(), (1 + d) * angle.sin()]).double()
    assert counterexamples.spiral_loss(w).min() >= 0


def test_spiral_flow_equals_small_steps_of_descent():
    w = torch.tensor([[2.0], [0.0]], dtype=torch.float64)
    for _ in range(500):
        w = w - 0.01 * counterexamples.spiral_gradient(w)
    distance, angle = counterexamples.spiral_flow((2.0, 0.0), 5.0)
    assert torch.linalg.vector_norm(w).item() - 1 == pytest.approx(distance, rel=0.02)  # steps of length 0.01
    assert math.atan2(w[1].item(), w[0].item()) == pytest.approx(angle, rel=0.02)


def test_escape_follows_the_flow_in_small_steps():
    w = 0.0
    for _ in range(20_000):
        w += 0.005 / (1 + math.exp(w))
    assert counterexamples.escaped_to(100.0) == pytest.approx(w, rel=1e-3)  # steps of length 0.005


def test_expected_losses_equal_the_second_moments_of_the_weights():
    curvature = spectrum(20, 100.0).double()
    factor, steps = vanishing_rates.inverse_time(5), 5
    # the weight is linear in the start and in the noise: sum of squared coefficients
    lr = [vanishing_rates.LR * factor(t) for t in range(steps)]
    total = 0.0
    for h in curvature.tolist():
        shrink = [1 - rate * h for rate in lr]
        coefficients = [math.prod(shrink)]
        coefficients += [0.1 * lr[t] * math.prod(shrink[t + 1 :]) for t in range(steps)]  # noise with sd 0.1
        total += h / 2 * sum(value**2 for value in coefficients)
    assert vanishing_rates.expected_losses(factor, [steps])[steps] == pytest.approx(total, rel=1e-12)  # rounding


def test_reversal_is_the_first_horizon_at_which_the_vanishing_rate_is_better(monkeypatch):
    def expected(factor, times):
        return {times[0]: 1.0 if factor is vanishing_rates.constant else 500 / times[0]}

    monkeypatch.setattr(vanishing_rates, "expected_losses", expected)
    steps = vanishing_rates.reversal(lambda steps: lambda t: 0.5, low=300, high=3000)
    assert steps == pytest.approx(501, rel=0.01)  # bisection stops at .5 %


def test_gradient_norm_of_a_network_equals_that_of_torch_layers():
    first, second = torch.nn.Linear(64, 32), torch.nn.Linear(32, 10)
    stacked = StackedNetwork((64, 32, 10), [4, 5])
    for layer, weight, bias in zip((first, second), stacked.weights, stacked.biases, strict=True):
        layer.load_state_dict({"weight": weight[1].T, "bias": bias[1, 0]})
    model = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    inputs, labels, _, _ = digit_vectors()
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    (loss + 0.003 / 2 * sum(p.square().sum() for p in model.parameters())).backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    norms = vanishing_rates.gradient_norms(vanishing_rates.constant, [0], [4, 5])[0]
    assert norms[1].item() == pytest.approx(expected, rel=1e-4)  # float32


def test_final_weight_without_noise_follows_the_sum_of_the_rates(outcome):
    for finding in outcome.findings:
        if finding.name.endswith("reach"):
            assert finding.measured == pytest.approx(finding.predicted, rel=1e-3)  # curvature .01: second order


def test_averaging_error_equals_the_prediction():
    errors = argument.averaging_errors([0, 1], 10, 2000)
    assert np.mean(errors) == pytest.approx(argument.predicted_error(10), rel=0.06)  # 4000 samples: 1.1 %, five of it


@pytest.mark.slow
def test_convergence_full_run(tmp_path):
    outcome = experiments.run("convergence")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    assert all(finding.holds for finding in outcome.findings)
    check_page(outcome, tmp_path)
