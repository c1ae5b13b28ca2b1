from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.errors import ArgumentError
from dashpot.tasks import evaluate, get
from dashpot.tasks.surfaces import Quadratic, Rosenbrock, Saddle, spectrum
from dashpot.tasks.synthetic import GradientNoise

NAMES = ["quadratic", "noisy-quadratic", "rosenbrock", "saddle"]


def surfaces(dtype=torch.float64):
    eigenvalues = spectrum(3, 50.0).to(dtype)
    return {
        "quadratic": (Quadratic(torch.ones(3, dtype=dtype), eigenvalues), [torch.zeros(3)]),
        "rosenbrock": (Rosenbrock(torch.zeros(2, dtype=dtype)), [torch.ones(2)]),
        "saddle": (Saddle(torch.zeros(2, dtype=dtype)), [torch.tensor([0.0, 1.0]), torch.tensor([0.0, -1.0])]),
    }


@pytest.mark.parametrize("name", ["quadratic", "rosenbrock", "saddle"])
def test_surface_has_documented_minimum(name):
    surface, solutions = surfaces()[name]
    for solution in solutions:
        with torch.no_grad():
            surface.w.copy_(solution)
        value = surface.value()
        (gradient,) = torch.autograd.grad(value, surface.w)
        hessian = torch.autograd.functional.hessian(
            lambda w: torch.func.functional_call(surface, {"w": w}, zero(w)).sum(), surface.w.detach()
        )
        assert value.item() == 0
        assert gradient.abs().max() == 0
        assert torch.linalg.eigvalsh(hessian).min() > 0


def zero(w):
    return torch.zeros(1, len(w), dtype=w.dtype)


@pytest.mark.parametrize("name", ["rosenbrock", "saddle"])
@settings(deadline=None, max_examples=20)
@given(a=st.floats(-3, 3), b=st.floats(-3, 3))
def test_surface_is_nonnegative(name, a, b):
    surface, _ = surfaces()[name]
    with torch.no_grad():
        surface.w.copy_(torch.tensor([a, b]))
    assert surface.value().item() >= 0


def test_saddle_has_documented_curvature():
    def f(w):
        return w[0] ** 2 / 2 + (w[1] ** 2 - 1) ** 2 / 4

    point = torch.tensor([0.3, -0.7], dtype=torch.float64)
    assert Saddle(point).value().item() == pytest.approx(f(point).item(), rel=1e-14)
    for at, expected in (([0.0, 0.0], [1.0, -1.0]), ([0.0, 1.0], [1.0, 2.0])):
        hessian = torch.autograd.functional.hessian(f, torch.tensor(at, dtype=torch.float64))
        assert hessian.diagonal().tolist() == expected


@settings(deadline=None, max_examples=30)
@given(dimension=st.integers(1, 30), condition=st.floats(1, 1e6))
def test_spectrum_has_given_condition_number(dimension, condition):
    """The relative tolerance of 1e-5 allows for float32 rounding of the exponent."""
    eigenvalues = spectrum(dimension, condition)
    assert eigenvalues.shape == (dimension,)
    assert eigenvalues[-1].item() == 1
    if dimension > 1:
        assert eigenvalues[0].item() == pytest.approx(1 / condition, rel=1e-5)
        ratios = eigenvalues[1:] / eigenvalues[:-1]
        torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_training_loss_includes_noise_and_evaluation_loss_does_not(name):
    problem = get(name).build(1)
    value = problem.model.value()
    noise, target = next(problem.train.epoch(0))
    loss = problem.loss(problem.model(noise), target)
    assert loss.item() == pytest.approx((value + noise[0] @ problem.model.w).item(), rel=1e-6)
    gradient, exact = (torch.autograd.grad(f, problem.model.w)[0] for f in (loss, problem.model.value()))
    torch.testing.assert_close(gradient, exact + noise[0], rtol=1e-6, atol=1e-6)
    assert evaluate(problem) == {"loss": pytest.approx(value.item(), rel=1e-6)}
    assert bool(noise.any()) == (name == "noisy-quadratic")


@pytest.mark.parametrize("name", NAMES)
def test_seed_determines_start_and_noise(name):
    task = get(name, steps=7)
    before = torch.get_rng_state()
    one, two, other = task.build(5), task.build(5), task.build(6)
    noises = [torch.stack([x for x, _ in problem.train.epoch(2)]) for problem in (one, two)]
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.model.w, two.model.w)
    assert not torch.equal(one.model.w, other.model.w)
    assert torch.equal(*noises)
    assert len(one.train) == len(noises[0]) == 7


def test_noise_is_independent_with_given_variance():
    """The bounds are four standard errors. For 40 000 draws, one is 0.7 % of the variance or 0.005 in a correlation."""
    stream = GradientNoise(dimension=2, steps=20_000, variance=0.25, seed=0)
    noise = torch.cat([x for x, _ in stream.epoch(0)]).double()
    assert noise.var().item() == pytest.approx(0.25, rel=0.028)
    assert abs(noise.mean().item()) < 4 * 0.5 / math.sqrt(40_000)
    assert abs(torch.corrcoef(noise.T)[0, 1].item()) < 4 / math.sqrt(20_000)
    assert abs(torch.corrcoef(torch.stack([noise[1:, 0], noise[:-1, 0]]))[0, 1].item()) < 4 / math.sqrt(20_000)
    other = torch.cat([x for x, _ in stream.epoch(1)]).double()
    assert abs(torch.corrcoef(torch.stack([noise[:, 0], other[:, 0]]))[0, 1].item()) < 4 / math.sqrt(20_000)


def test_noisy_quadratic_reaches_documented_equilibrium():
    """E[f] = variance lr / 4 sum 1 / (1 - lr h / 2). The standard error of the mean over 5000 steps of 16
    independent coordinates, with correlation times of at most 1 / (lr h) = 20 steps, is about 2 %."""
    lr, variance = 0.5, 0.04
    problem = get("noisy-quadratic", dimension=16, condition=10.0, variance=variance, steps=5_500).build(0)
    h, w = problem.model.eigenvalues.double(), problem.model.w.detach().double()
    values = []
    for noise, _ in problem.train.epoch(0):
        w = w - lr * (h * w + noise[0].double())
        values.append((h * w * w).sum() / 2)
    predicted = (variance * lr / 4 / (1 - lr * h / 2)).sum().item()
    assert torch.stack(values[500:]).mean().item() == pytest.approx(predicted, rel=0.06)


@pytest.mark.parametrize(
    ("name", "lr", "momentum"),
    [
        ("quadratic", 1.0, 0),
        pytest.param("noisy-quadratic", 0.1, 0, marks=pytest.mark.slow),
        pytest.param("rosenbrock", 1e-3, 0.9, marks=pytest.mark.slow),
        ("saddle", 0.1, 0),
    ],
)
def test_sgd_reaches_target_within_default_epochs(name, lr, momentum):
    task = get(name)
    problem = task.build(0)
    assert not task.target.reached(evaluate(problem)["loss"])
    optimizer = torch.optim.SGD(problem.model.parameters(), lr, momentum)
    losses = []
    for epoch in range(task.epochs):
        for x, y in problem.train.epoch(epoch):
            optimizer.zero_grad()
            problem.loss(problem.model(x), y).backward()
            optimizer.step()
        losses.append(evaluate(problem)["loss"])
    assert any(task.target.reached(loss) for loss in losses)
    assert not task.target.reached(losses[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("quadratic", {"dimension": 0}, r"^quadratic: dimension must be an integer in \[1, inf\), got 0\.$"),
        ("quadratic", {"condition": 0.5}, r"^quadratic: condition must be a number in \[1, inf\), got 0\.5\.$"),
        ("noisy-quadratic", {"variance": -1}, r"^noisy-quadratic: variance must be a number in \[0, inf\), got -1\.$"),
        ("rosenbrock", {"steps": 0}, r"^rosenbrock: steps must be an integer in \[1, inf\), got 0\.$"),
        ("saddle", {"device": "nowhere"}, "^saddle: device must be available to torch"),
        ("saddle", {"device": "meta"}, "^saddle: device must be available to torch, got 'meta' .*meta"),
        ("saddle", {"variance": 0.1}, "^Unknown option of the task saddle 'variance'"),
    ],
)
def test_task_with_invalid_option_raises(name, options, message):
    with pytest.raises(ArgumentError, match=message):
        get(name, **options)


def test_invalid_seed_or_epoch_raises():
    with pytest.raises(ArgumentError, match=r"^saddle: seed must be an integer in"):
        get("saddle").build(-1)
    with pytest.raises(ArgumentError, match=r"^GradientNoise: epoch must be an integer in"):
        get("saddle").build(0).train.epoch(-1)
