"""Closed forms against simulations of the real stages on quadratics, with many settings in parallel."""

import math

import pytest
import torch

import dashpot as dp
from dashpot.analysis import stability, temperature

SETTINGS = 200


def random_settings(generator):
    """Return poles, zeros (negative and above the pole included), gains and fractions of decoupled decay."""
    pole = 0.95 * torch.rand(SETTINGS, generator=generator, dtype=torch.float64)
    zero = torch.cat(
        (
            1.9 * torch.rand(SETTINGS // 2, generator=generator, dtype=torch.float64) - 2,  # [-2, -0.1]
            0.95 * torch.rand(SETTINGS // 2, generator=generator, dtype=torch.float64),  # above the pole for a half
        )
    )
    gain = 0.1 + torch.rand(SETTINGS, generator=generator, dtype=torch.float64)
    shrink = 0.2 * torch.rand(SETTINGS, generator=generator, dtype=torch.float64)
    shrink[::2] = 0.0
    return pole, zero, gain, shrink


def recipe_of(pole, zero, gain, shrink):
    stages = dp.Filter(pole, zero, gain, normalise="none"), dp.DecoupledDecay(shrink, "constant")
    return dp.Recipe(*stages, lr=0.5)


def grows(settings, curvature, steps=6000, window=600):
    """Return whether errors grow: the largest |w| of the last window against that of the one before, as a table."""

    def move(pole, zero, gain, shrink, h, w, m, step):
        recipe = recipe_of(pole, zero, gain, shrink)
        w, state = dp.functional.update(recipe, w, h * w, {"momentum_buffer": m}, step)
        return w, state["momentum_buffer"]

    moves = torch.func.vmap(move, in_dims=(0, 0, 0, 0, 0, 0, 0, None))
    w, m = torch.ones_like(curvature), torch.zeros_like(curvature)
    before = after = torch.zeros_like(w)
    for step in range(steps):
        w, m = moves(*settings, curvature, w, m, step)
        if step == steps - window:
            before, after = after, torch.zeros_like(w)
        elif step == steps - 2 * window:
            after = torch.zeros_like(w)
        after = torch.maximum(after, w.abs())
        if step % 100 == 0:  # linear, so that w and m may be rescaled together; 0 stays 0
            scale = torch.maximum(w.abs(), m.abs()).clamp_min(1e-300)
            active = (scale > 1e100) | (scale < 1e-100)
            factor = torch.where(active, 1 / scale, 1.0)
            w, m, before, after = w * factor, m * factor, before * factor, after * factor
    return after > before


@pytest.mark.slow
def test_stability_boundary_equals_bisection_of_simulations():
    settings = random_settings(torch.Generator().manual_seed(0))
    low = torch.full((SETTINGS, 1), 1e-3, dtype=torch.float64)
    high = torch.full((SETTINGS, 1), 1e4, dtype=torch.float64)
    points = 33
    for _ in range(3):  # the ratio high/low decreases to its 32nd root: 1e7, 1.65, 1.016
        shares = torch.linspace(0, 1, points, dtype=torch.float64)
        grid = low * (high / low) ** shares
        first = grows(settings, grid).to(torch.int8).argmax(dim=1, keepdim=True).clamp_min(1)
        low, high = grid.gather(1, first - 1), grid.gather(1, first)
    simulated = (low * high).sqrt().flatten()
    predicted = torch.tensor(
        [
            stability(recipe_of(*map(float, row))).largest_curvature
            for row in zip(*(item.tolist() for item in settings), strict=True)
        ]
    )
    error = (simulated / predicted - 1).abs()
    pole, zero, _, shrink = settings
    counts = (
        f"{(zero <= -1).sum()} zeros up to -1, {(zero > pole).sum()} above the pole, {(shrink > 0).sum()} with decay"
    )
    print(f"{counts}: error at most {error.max():.2g}, median {error.median():.2g}")
    assert error.max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pole", "zero", "lr", "coupled", "decoupled"),
    [
        (0.0, 0.0, 0.3, 0.0, 0.0),
        (0.9, 0.0, 0.3, 0.0, 0.0),
        (0.9, 0.9 / 1.9, 0.3, 0.0, 0.0),
        (0.8, -0.5, 0.5, 0.0, 0.0),
        (0.6, 0.8, 0.3, 0.0, 0.0),
        (0.9, 0.3, 0.3, 0.4, 0.0),
        (0.9, 0.3, 0.3, 0.0, 0.3),
    ],
)
def test_stationary_variance_equals_simulation(pole, zero, lr, coupled, decoupled):
    stages = dp.CoupledDecay(coupled), dp.Filter(pole, zero, normalise="none"), dp.DecoupledDecay(decoupled)
    recipe = dp.Recipe(*stages, lr=lr)
    variance = simulated_variance(recipe)
    predicted = temperature(recipe, 1.0, noise=2.0, batch=4)
    print(f"variance {predicted.variance:.5f}, error {predicted.variance / variance - 1:.2g}")
    assert predicted.variance == pytest.approx(variance, rel=0.02)
    assert predicted.excess_loss == pytest.approx(variance / 2, rel=0.02)


@pytest.mark.slow
def test_stationary_variance_of_two_filters_equals_simulation():
    stages = dp.Filter(0.8, normalise="none"), dp.Filter(0.5, 0.9, normalise="none", slot="second")
    recipe = dp.Recipe(*stages, lr=0.3)
    variance = simulated_variance(recipe)
    assert temperature(recipe, 1.0, noise=2.0, batch=4).variance == pytest.approx(variance, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        dp.Adam.recipe_for(lr=0.05),
        dp.AdamW.recipe_for(lr=0.05, betas=(0.5, 0.999), weight_decay=0.5),
        dp.RMSprop.recipe_for(lr=0.02, alpha=0.999, momentum=0.8, weight_decay=0.5),
        dp.NAdam.recipe_for(lr=0.05, momentum_decay=1.0),
        dp.CenteredAdam.recipe_for(lr=0.05),
    ],
)
def test_stationary_variance_of_adaptive_methods_equals_simulation(recipe):
    """The second moment with beta .999 fluctuates by a few percent, which changes the variance by less than 1 %."""
    variance = simulated_variance(recipe, count=2000, burn_in=4000, steps=8000)
    predicted = temperature(recipe, 1.0, noise=2.0, batch=4, denominator="rms")
    print(f"variance {predicted.variance:.5f}, error {predicted.variance / variance - 1:.2g}")
    assert predicted.variance == pytest.approx(variance, rel=0.02)


def simulated_variance(recipe, count=20_000, burn_in=400, steps=1000):
    """Return the mean of w^2 for h = 1 and a gradient variance of 1/2.

    Over 20 000 coordinates and 60 times, its relative error is near sqrt(2/4e5) = 0.2 %. The slowest mode decays by
    0.98^400 = 3e-4 before the first time.
    """
    generator = torch.Generator().manual_seed(1)
    w = torch.zeros(count, dtype=torch.float64)
    state, squares = dp.functional.init(recipe, w), []
    for step in range(steps):
        grad = w + math.sqrt(0.5) * torch.randn(w.shape, generator=generator, dtype=torch.float64)
        w, state = dp.functional.update(recipe, w, grad, state, step)
        if step >= burn_in and step % 10 == 0:
            squares.append((w * w).mean())
    return torch.stack(squares).mean().item()
