"""Fluctuation of the loss: closed forms against simulations, and rows of watched runs."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from dashpot.experiments.stacked_network import digit_vectors
from dashpot.watching import watch
from dashpot.watching.noise import NoiseProbe
from dashpot.watching.pulse import PulseProbe
from dashpot.watching.rates import RateView
from dashpot.watching.spectrum import SpectrumProbe
from dashpot.watching.temperature import TemperatureProbe, combined
from dashpot.watching.temperature_estimates import (
    Fluctuation,
    directions,
    excess_loss,
    fluctuation,
    rate_correction,
    virial,
)

WEIGHTS, COPIES, BATCH = 8, 250, 4
CURVATURES = torch.logspace(0, -0.5, WEIGHTS, dtype=torch.float64)
NOISE = CURVATURES.sqrt() * torch.linspace(1, 2, WEIGHTS, dtype=torch.float64)  # of the gradient of one example
METHODS = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.05),
    "heavy-ball": lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.005, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def simulated(make, steps=60, burn_in=250):
    """Return the optimizer, weights and gradients of independent copies of a quadratic with noise."""
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.zeros(COPIES, WEIGHTS, dtype=torch.float64))
    optimizer = make([w])
    weights, gradients = [], []
    for t in range(burn_in + steps):
        noise = torch.randn(COPIES, WEIGHTS, generator=generator, dtype=torch.float64)
        w.grad = CURVATURES * w.detach() + NOISE / math.sqrt(BATCH) * noise
        if t >= burn_in:
            weights.append(w.detach().clone())
            gradients.append(w.grad)
        optimizer.step()
    return optimizer, torch.stack(weights), torch.stack(gradients)


@pytest.mark.parametrize("name", METHODS)
def test_excess_loss_and_its_fluctuation_equal_the_prediction(name):
    optimizer, weights, gradients = simulated(METHODS[name])
    w = optimizer.param_groups[0]["params"][0]
    section = RateView(optimizer).group(0).form.filter
    rate = RateView(optimizer).tensor(0, w).rate.mean(0) if name == "adam" else RateView(optimizer).tensor(0, w).rate
    losses = (CURVATURES * weights**2).sum(2) / 2
    predicted = excess_loss(float((rate * NOISE**2).sum()), BATCH, section.dc_gain)
    heat = section.dc_gain * rate * NOISE**2 / (2 * BATCH)
    assert predicted == pytest.approx(float(heat.sum()) / 2, rel=1e-9)
    # 250 copies of 60 correlated steps, about 1000 independent losses: standard error 2 %; small rates: 2 %.
    assert float(losses.mean()) == pytest.approx(predicted, rel=0.06)
    spread = math.sqrt(2 / directions(heat.numpy())) * predicted
    assert float(losses.std()) == pytest.approx(spread, rel=0.1)
    found = virial(
        gradients.flatten(1).numpy() - gradients.mean((0, 1)).repeat(COPIES).numpy(),
        weights.flatten(1).numpy(),
        np.tile((section.dc_gain * rate * torch.ones(WEIGHTS)).numpy(), COPIES),
    )
    # The mean over 60 steps removes the slow part of the fluctuations, which relax in 1/(rate curvature) = 20 to 60.
    assert 0.5 < found.ratio < 1.05


def test_virial_of_a_stationary_weight_is_its_temperature():
    rng = np.random.default_rng(0)
    n, rate = 8192, 0.2
    w, g = np.zeros((n, 64)), np.zeros((n, 64))
    x = np.zeros(64)
    for t in range(n):
        w[t] = x
        g[t] = x + rng.normal(size=64)
        x = x - rate * g[t]
    found = virial(g, w, np.full(64, rate))
    # Exact for plain gradient descent; the mean over 8192 steps removes 2/(rate n) = .1 %.
    assert found.ratio == pytest.approx(1, abs=0.01)
    assert found.error < 0.005


def test_correction_equals_the_closed_form_of_plain_gradient_descent():
    section = RateView(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)).group(0).form.filter
    assert rate_correction(section, 1.2) == pytest.approx(1 / (1 - 0.6), rel=1e-12)


def test_both_sources_of_fluctuation_are_separated():
    rng = np.random.default_rng(0)
    slow = np.zeros(512)
    for t in range(1, 512):
        slow[t] = 0.9 * slow[t - 1] + math.sqrt(1 - 0.81) * rng.normal()
    losses = 2.0 + 0.02 * rng.normal(size=512) + 0.03 * slow
    found = fluctuation(losses)
    # 512 correlated losses are about 27 independent ones: standard error 14 % of the slow part, 7 % of the white part.
    assert found.weights == pytest.approx(0.03, rel=0.35)
    assert found.sampling == pytest.approx(0.02, rel=0.2)
    assert found.deviation == pytest.approx(math.hypot(found.weights, found.sampling), rel=1e-9)


def test_white_losses_have_no_part_of_the_weights():
    rng = np.random.default_rng(0)
    found = [fluctuation(rng.normal(1, 0.1, 512)) for _ in range(50)]
    errors = [item.sampling for item in found]
    assert np.mean(errors) == pytest.approx(0.1, rel=0.06)  # parts of weights >= 0 take a share of the variance
    assert np.std(errors) < 2 * np.mean([item.sampling_error for item in found])


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (np.ones(50), "50 of the required 128 losses exist."),
        (np.ones(200), "The loss is constant."),
        (np.full(200, np.nan), "A loss is not finite."),
    ],
)
def test_unusable_losses_have_a_reason(losses, reason):
    found = fluctuation(losses)
    assert (found.reason, found.deviation, found.weights) == (reason, None, None)


def test_falling_loss_has_a_reason():
    time = np.arange(512)
    losses = np.exp(-time / 300) + 0.01 * np.random.default_rng(0).normal(size=512)
    assert fluctuation(losses).reason.startswith("The loss is not stationary: it falls by ")


def test_latest_losses_are_used_after_a_fall():
    time = np.arange(512)
    losses = np.exp(-time / 20) + 0.01 * np.random.default_rng(0).normal(size=512)
    found = fluctuation(losses)
    assert found.steps in (128, 256)
    assert found.deviation == pytest.approx(0.01, rel=0.2)  # 128 losses: standard error 6 %


def mean_loss(model, x, y, first, last):
    """Return the mean loss of a range of examples."""
    return (model(x[first:last]) - y[first:last]).square().mean()


def watched_regression(steps=400, observe=True):
    """Return the record of a linear regression at a constant rate, near its minimum."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watcher = watch(optimizer, model, budget=1.0)
    watcher.budget.affords = lambda *args: True
    watcher.probes = [Losses(), SpectrumProbe(10_000, start=60, steps=256), TemperatureProbe(every=10)]
    for _ in range(steps):
        x = torch.randn(16, 8, generator=generator)
        y = x.sum(1, keepdim=True) + torch.randn(16, 1, generator=generator)
        loss = mean_loss(model, x, y, 0, 16)
        optimizer.zero_grad()
        loss.backward()
        if observe:
            watcher.observe(loss, sliced=partial(mean_loss, model, x, y), size=16)
        optimizer.step()
    return watcher.record


class Losses(TemperatureProbe):
    """Losses in the form of the rows "pulse"."""

    kind = "pulse"
    always = True

    def __init__(self):
        super().__init__(every=1)

    def before_step(self, watcher, moment):
        loss = None if moment.loss is None else float(moment.loss)
        watcher.record.add("pulse", {"step": moment.step, "loss": loss})


def test_sampling_noise_from_parts_agrees_with_the_white_part():
    record = watched_regression()
    row = record.rows("temperature").last
    json.dumps(row, allow_nan=False)
    exact = math.sqrt(2 / 16)  # variance 2 of a squared normal
    # 40 squared differences of skewed losses: standard error about 20 %.
    assert row["expected"]["sampling"] == pytest.approx(exact, rel=0.4)
    assert row["parts"]["sampling"] == pytest.approx(exact, rel=0.2)  # 400 losses
    assert row["predicted"] is None
    assert row["reason"] == "The noise of the gradients is unknown: there is no measurement with elementwise rates."
    assert 0.7 < row["virial"]["ratio"] < 1.2


def test_rows_without_observed_batches_have_a_reason():
    row = watched_regression(150, observe=False).rows("temperature").last
    assert row["measured"] is None
    assert row["reason"] == "0 of the required 128 losses exist."


def test_row_combines_both_predicted_parts():
    weights = {"excess": 0.3, "weights": 0.3, "correction": 1.1, "directions": 2.0, "reason": None}
    found = Fluctuation(512, 0.5, 0.4, 0.3, 0.01, 0.0, 1.0)
    row = combined(found, 0.4, 20, weights, None)
    assert (row["predicted"], row["measured"], row["reason"]) == (0.5, 0.5, None)
    falling = combined(Fluctuation(512, reason="The loss is not stationary."), 0.4, 20, weights, None)
    assert (falling["predicted"], falling["measured"]) == (None, None)
    assert falling["reason"] == "The loss is not stationary."


@pytest.mark.slow
def test_excess_loss_of_softmax_regression_on_digits_is_predicted():
    inputs, labels, _, _ = digit_vectors()

    def objective(model, x, y):
        penalty = sum(p.square().sum() for p in model.parameters())
        return nn.functional.cross_entropy(model(x), y) + 0.015 * penalty

    model = nn.Linear(64, 10)
    solver = torch.optim.LBFGS(model.parameters(), max_iter=2000, tolerance_grad=1e-8, line_search_fn="strong_wolfe")

    def closure():
        solver.zero_grad()
        loss = objective(model, inputs, labels)
        loss.backward()
        return loss

    solver.step(closure)
    lowest, excess = closure().item(), []
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # starts at the minimum
    watcher = watch(optimizer, model, budget=1.0)
    watcher.budget.affords = lambda *args: True
    watcher.probes = [PulseProbe(), NoiseProbe(every=10), TemperatureProbe(every=16)]
    for step in range(3000):
        index = torch.randint(len(labels), (10,))
        x, y = inputs[index], labels[index]
        loss = objective(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        watcher.observe(
            loss, sliced=lambda first, last, x=x, y=y: objective(model, x[first:last], y[first:last]), size=10
        )
        optimizer.step()
        if step >= 1000 and step % 5 == 0:
            excess.append(objective(model, inputs, labels).item() - lowest)
    rows = [row for row in watcher.record.rows("temperature") if row["excess"] is not None][-20:]
    predicted = np.mean([row["excess"] for row in rows])
    print(f"excess loss {np.mean(excess):.4f}, predicted {predicted:.4f}")
    # Noise of 20 recent measurements of the trace, about 5 %, and of 2000 correlated steps, about 5 %.
    assert np.mean(excess) == pytest.approx(predicted, rel=0.2)
    sampling = [row["parts"]["sampling"] / row["expected"]["sampling"] for row in rows if row["expected"]["sampling"]]
    assert np.median(sampling) == pytest.approx(1, abs=0.2)  # 30 squared differences, skewed
