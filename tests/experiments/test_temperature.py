"""The experiment `temperature`: predictions against independent computations, and its findings."""

import numpy as np
import pytest
import torch
from outcome_checks import check_findings, check_page

import dashpot as dp
from dashpot import experiments
from dashpot.experiments import loss_levels, snapshots, temperature
from dashpot.experiments.copies import sample_path
from dashpot.experiments.double_well import GRID, DoubleWell, simulate
from dashpot.experiments.equilibrium import defined, distribution_distance, stationary_weights
from dashpot.experiments.stacked_network import StackedNetwork, digit_vectors, losses


@pytest.fixture(scope="module")
def outcome():
    return experiments.run("temperature", seeds=2, quick=True)


def test_every_claim_has_findings_and_names_are_unique(outcome):
    check_findings(outcome)


def test_influence_of_one_gradient_equals_the_effective_rate(outcome):
    measured = {f.name: f.measured for f in outcome.findings if f.name.startswith("influence")}
    poles = {"plain": 0.0, "ema-0.9": 0.9, "ema-0.99": 0.99, "heavy-ball-0.9": 0.9}
    expected = {
        f"influence-{name}": (0.2 if "ball" in name else 0.02) * (1 - pole**260)  # the quick run has 260 steps
        for name, pole in poles.items()
    }
    assert measured == pytest.approx(expected, rel=1e-12)  # rounding


def test_stationary_variance_of_sgd_equals_the_closed_form():
    weights = stationary_weights(lambda w: dp.SGD(w, lr=0.5), [0, 1], copies=4000, burn_in=40, samples=3, every=20)
    # variance lr/(2 - lr) = 1/3; standard error of 24 000 samples 0.9 %, five of them
    assert weights.var().item() == pytest.approx(1 / 3, rel=0.05)


def test_sample_path_keeps_the_requested_steps():
    start = torch.ones(2, 3, dtype=torch.float64)
    path = sample_path(lambda w: dp.SGD(w, lr=0.5), lambda w: w.clone(), start, 9, keep_from=3, every=2)
    expected = [0.5**step for step in (3, 5, 7, 9)]
    assert path[:, 0, 0].tolist() == expected
    assert path.shape == (4, 2, 3)


def test_distribution_distance_equals_the_largest_difference_of_counts():
    a, b = torch.randn(80, dtype=torch.float64), 0.3 + torch.randn(50, dtype=torch.float64)
    expected = max(abs(float((a <= x).double().mean() - (b <= x).double().mean())) for x in [*a, *b])
    assert distribution_distance(a, b) == pytest.approx(expected, abs=1e-6)  # float32 shares


def test_defined_without_number_raises():
    with pytest.raises(dp.ArgumentError, match=r"defined: value must be a number, got None\."):
        defined(None)


def test_density_with_constant_noise_is_gibbs():
    well = DoubleWell(noise=16.0, tilt=0.03)
    # trapezoidal integral of L' on 6001 points: relative error (0.001)^2 L'''/T
    np.testing.assert_allclose(well.density(0.02)[1000:5001], well.gibbs(0.16)[1000:5001], rtol=1e-3, atol=1e-9)


def test_density_with_varying_noise_has_no_flux():
    well, lr = DoubleWell(noise=16.0, slope=0.5), 0.02
    inner = slice(1500, 4501)
    diffused = lr * well.variance(GRID) / 2 * well.density(lr)
    flux = well.gradient(GRID) * well.density(lr) + np.gradient(diffused, GRID)
    assert np.abs(flux[inner]).max() < 1e-4  # second differences of step 0.001; each term of the flux is of order 0.1


@pytest.mark.parametrize("temperature", [0.08, 0.3])
def test_escape_time_solves_the_backward_equation(temperature):
    """T u'' - L' u' = -1, with a reflecting wall at the left and u = 0 at the end, by finite differences."""
    well, count = DoubleWell(tilt=0.03), 500
    x = np.linspace(-2.6, 1.0, count)
    h, slope = x[1] - x[0], well.gradient(x)
    matrix = np.zeros((count, count))
    matrix[0, :2], matrix[-1, -1] = (-1, 1), 1
    for i in range(1, count - 1):
        matrix[i, i - 1 : i + 2] = [
            temperature / h**2 + slope[i] / (2 * h),
            -2 * temperature / h**2,
            temperature / h**2 - slope[i] / (2 * h),
        ]
    right = -np.ones(count)
    right[0] = right[-1] = 0
    expected = np.interp(-1.0, x, np.linalg.solve(matrix, right))
    assert well.escape_time(temperature) == pytest.approx(expected, rel=0.01)  # steps of 0.007, and the wall


def test_simulated_populations_follow_the_tilt():
    sample = simulate(DoubleWell(tilt=0.2), 0.04, [0], copies=400, burn_in=400, samples=3, every=50)
    predicted = DoubleWell(tilt=0.2).share_right(temperature=0.32)
    # 1200 samples, about 400 of them independent: standard error 0.023; rate of 8 % of the stable one: bias 0.01
    assert (sample.weights > 0).double().mean().item() == pytest.approx(predicted, abs=0.08)
    assert sample.escape_rate.item() > 0


def test_minimum_has_the_hessian_and_the_gradient_noise_of_autograd():
    inputs, labels = (part[:12] for part in digit_vectors()[:2])
    minimum = loss_levels._minimum(inputs, labels, 0.1)
    model = StackedNetwork((64, 10), [0], torch.float64)
    weight, bias = model.weights[0], model.biases[0]
    solver = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = losses(model, inputs[None], labels[None], 0.1).sum()
        loss.backward()
        return loss

    solver.step(closure)

    def loss_at(flat):
        output = inputs.double() @ flat[:640].view(64, 10) + flat[640:]
        return torch.nn.functional.cross_entropy(output, labels) + 0.05 * flat.square().sum()

    point = torch.cat([weight.detach().flatten(), bias.detach().flatten()])
    hessian = torch.autograd.functional.hessian(loss_at, point, vectorize=True)
    assert minimum.loss == pytest.approx(loss_at(point).item(), rel=1e-12)  # minimum to a gradient of 1e-9
    torch.testing.assert_close(minimum.curvatures, torch.linalg.eigvalsh(hessian), rtol=1e-6, atol=1e-9)
    gradients = []
    for image, label in zip(inputs, labels, strict=True):
        model.zero_grad()
        losses(model, image[None, None], label[None, None]).sum().backward()
        gradients.append(torch.cat([weight.grad.flatten(), bias.grad.flatten()]))
    expected = torch.stack(gradients).var(0, correction=0).sum().item()
    assert minimum.noises.sum().item() == pytest.approx(expected, rel=1e-6)  # accuracy of both minima


def test_barrier_is_zero_between_equal_weights_and_positive_between_permuted_units():
    model = StackedNetwork((64, 32, 10), [0, 1])
    optimizer = dp.SGD(model.parameters(), lr=0.5)
    inputs, labels, _, _ = digit_vectors()
    for _ in range(50):
        optimizer.zero_grad()
        losses(model, inputs[None], labels[None]).sum().backward()
        optimizer.step()
    trained = [p.detach().clone() for p in model.parameters()]
    first, second, bias, offset = trained
    permuted = [first.flip(2), second.flip(1), bias.flip(2), offset]  # the same functions with other weights
    assert snapshots._barrier(model, trained, trained).abs().max() < 1e-5  # float32
    assert snapshots._barrier(model, trained, permuted).min() > 0.1


def test_cycling_rate_changes_wells_and_low_rate_does_not(outcome):
    measured = {f.name: f.measured for f in outcome.findings if f.name.endswith("-wells")}
    assert measured["cycling-wells"] > 0.1
    assert measured["cold-wells"] == 0


@pytest.mark.slow
def test_temperature_full_run(tmp_path):
    outcome = experiments.run("temperature")
    assert outcome.verdict == experiments.HOLDS_WITH_LIMITS
    verdicts = [experiments.verdict_of(f for f in outcome.findings if f.claim == k) for k in range(8)]
    limited = experiments.HOLDS_WITH_LIMITS
    assert verdicts == [
        experiments.HOLDS,
        limited,
        limited,
        experiments.HOLDS,
        limited,
        limited,
        experiments.HOLDS,
        experiments.FAILS,
    ]
    check_page(outcome, tmp_path)
    assert len(temperature.CLAIMS) == 8
