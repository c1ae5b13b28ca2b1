"""Statements of the sources on batch size, momentum and temperature."""

import pytest
import torch
from batch_simulation import stationary_variance

import dashpot as dp
from dashpot.analysis import response, scale_batch, temperature
from dashpot.schedules import LinearWarmup, MultiStep

# (lr, batch, excess loss h Var/2 for h = 1 and unit noise)
COOLING = [(0.02, 1, 0.00505), (0.02, 4, 0.00126), (0.02, 16, 0.00032), (0.08, 4, 0.00521), (0.32, 16, 0.00595)]


@pytest.mark.parametrize(("lr", "batch", "loss"), COOLING)
def test_larger_batch_cools_at_fixed_rate_and_not_at_proportional_rate(lr, batch, loss):
    found = temperature(dp.SGD.recipe_for(lr=lr), curvature=1.0, batch=batch)
    assert found.excess_loss == pytest.approx(loss, abs=5e-6)  # digits given
    assert found.excess_loss == pytest.approx(lr / (2 * batch * (2 - lr)), rel=1e-12)


@pytest.mark.slow
def test_larger_batch_cools_in_simulation():
    for lr, batch, loss in COOLING:
        variance, error = stationary_variance(lambda p, lr=lr: dp.SGD(p, lr=lr), 1.0, batch, steps=800)
        exact = lr / (batch * (2 - lr))
        print(f"lr {lr}, batch {batch}: excess loss {variance / 2:.5f}")
        assert variance == pytest.approx(exact, abs=4 * error)
        assert variance / 2 == pytest.approx(loss, rel=0.05)


@pytest.mark.parametrize("pole", [0.0, 0.9])
@pytest.mark.parametrize("factor", [2, 5])
def test_larger_batch_has_the_temperature_of_a_smaller_rate(pole, factor):
    lr, h = 0.01, 1.0
    recipe = dp.QHM.recipe_for(lr=lr, momentum=pole, nu=1.0)
    grown = temperature(recipe, h, batch=64 * factor).variance
    divided = temperature(recipe.with_settings(lr=lr / factor), h, batch=64).variance
    assert grown == pytest.approx(divided, rel=lr * h / 2)  # equal to first order in lr h


@pytest.mark.slow
def test_larger_batch_has_the_temperature_of_a_smaller_rate_in_simulation():
    grown, _ = stationary_variance(lambda p: dp.HeavyBall(p, lr=0.01, pole=0.9), 1.0, 4, steps=600)
    divided, _ = stationary_variance(lambda p: dp.HeavyBall(p, lr=0.0025, pole=0.9), 1.0, 1, steps=2400)
    print(f"ratio of variances {grown / divided:.3f}")
    assert grown == pytest.approx(divided, rel=0.04)  # 3 standard errors of 1 %; the finite rate changes 0.3 %


def test_pole_changes_the_effective_rate_of_torch_momentum_but_not_of_averages():
    """RMSprop has torch's momentum; Adam and QHM have averages."""
    gains = {
        name: [response(make(pole)).dc_gain for pole in (0.0, 0.9, 0.99)]
        for name, make in {
            "SGD": lambda pole: dp.SGD.recipe_for(lr=0.1, momentum=pole),
            "RMSprop": lambda pole: dp.RMSprop.recipe_for(lr=0.1, momentum=pole),
            "Adam": lambda pole: dp.Adam.recipe_for(lr=0.1, betas=(pole, 0.999)),
            "QHM": lambda pole: dp.QHM.recipe_for(lr=0.1, momentum=pole, nu=1.0),
        }.items()
    }
    assert gains["SGD"] == gains["RMSprop"] == pytest.approx([1, 10, 100])
    assert gains["Adam"] == gains["QHM"] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("pole", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("batch", [1, 16])
def test_rate_of_one_minus_momentum_times_batch_has_one_temperature(pole, batch):
    """lr = (1 - momentum) B lr0."""
    lr0, h = 1e-4, 1.0
    found = temperature(dp.SGD.recipe_for(lr=(1 - pole) * batch * lr0, momentum=pole), h, batch=batch)
    assert found.temperature == pytest.approx(lr0 / 2, rel=batch * lr0 * h)  # to first order in B lr0 h


@pytest.mark.slow
def test_rate_of_one_minus_momentum_times_batch_has_one_temperature_in_simulation():
    lr0, temperatures = 0.005, []
    for pole, batch, steps in ((0.0, 1, 2400), (0.9, 1, 2400), (0.9, 8, 600), (0.95, 8, 600)):
        settings = {"lr": (1 - pole) * batch * lr0, "momentum": pole}
        variance, _ = stationary_variance(lambda p, s=settings: dp.SGD(p, **s), 1.0, batch, steps=steps)
        temperatures.append(variance)
        print(f"momentum {pole}, batch {batch}: temperature {variance / (lr0 / 2):.3f} lr0/2")
    # 3 standard errors of 1 %; B lr0 h/2 is at most 2 %
    assert temperatures == pytest.approx([lr0 / 2] * 4, rel=0.05)


def test_large_batch_recipe_warms_up_from_the_small_rate_in_five_epochs():
    small = dp.SGD.recipe_for(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    scaled = scale_batch(small, 256, 8192, momentum="steps")
    assert scaled.settings == {"lr": pytest.approx(3.2)}
    assert [(kept.name, kept.value) for kept in scaled.kept if kept.name in ("weight_decay", "pole")] == [
        ("weight_decay", 1e-4),
        ("pole", 0.9),
    ]
    epoch = 1_281_167 // 8192
    schedule = LinearWarmup(5 * epoch, start=256 / 8192) * MultiStep((30 * epoch, 60 * epoch, 80 * epoch))
    rates = [3.2 * schedule(k * epoch) for k in (0, 5, 30, 60, 80)]
    assert rates == pytest.approx([0.1, 3.2, 0.32, 0.032, 0.0032])


def path(settings, curvature, steps):
    """Return the weights of SGD on a quadratic without noise, from 1."""
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = dp.SGD([w], engine="eager", **settings)
    weights = [1.0]
    for _ in range(steps):
        w.grad = curvature * w.detach()
        optimizer.step()
        weights.append(w.item())
    return weights


def test_momentum_in_examples_keeps_the_path_and_momentum_in_steps_does_not():
    """N = 100 steps, lr D h = 0.005: the weights change within N steps."""
    settings, h, count = {"lr": 1e-4, "momentum": 0.99}, 0.5, 480
    small = path(settings, h, count)
    for ratio, examples, steps in ((4, 0.008, 0.35), (16, 0.04, 0.71)):
        for momentum, expected in (("examples", examples), ("steps", steps)):
            scaled = scale_batch(dp.SGD([torch.zeros(1, requires_grad=True)], **settings), 1, ratio, momentum=momentum)
            large = path({**settings, **scaled.settings}, h, count // ratio)
            deviation = max(abs(a - b) for a, b in zip(large, small[::ratio], strict=True))
            assert deviation == pytest.approx(expected, rel=0.05)  # digits given


@pytest.mark.parametrize("share", [0.25, 1.0, 4.0])
def test_square_root_rule_falls_behind_where_the_batch_has_little_noise(share):
    """Mean step per example relative to small batches: 1/sqrt(1 + B/B_noise) with B_noise = sigma^2/E[g]^2."""
    mean, noise_batch = 0.1, 100  # sigma = 1
    batch = round(share * noise_batch)
    scaled = scale_batch(dp.RMSprop([torch.zeros(1, requires_grad=True)], lr=1e-3, alpha=0.9999, eps=0.0), 1, batch)
    w = torch.zeros(2000, dtype=torch.float64, requires_grad=True)
    w.grad = torch.zeros_like(w)
    optimizer = dp.SGM.from_recipe([w], rms(scaled.recipe), engine="eager")
    generator = torch.Generator().manual_seed(0)
    steps = 100
    for _ in range(steps):
        w.grad.normal_(mean, batch**-0.5, generator=generator)
        optimizer.step()
    found = -w.mean().item() / (steps * batch) / (1e-3 * mean)
    # the average has up to 100 steps, so that d fluctuates by 7 %; the mean step has a standard error of 2.2 %
    assert found == pytest.approx((1 + share) ** -0.5, rel=0.08)


def rms(recipe):
    """Return the recipe with a debiased average, which needs no initial steps."""
    (stage,) = recipe.active()
    return dp.Recipe(dp.SecondMoment(stage.beta, stage.eps), lr=recipe.lr)
