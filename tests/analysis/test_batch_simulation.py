"""Rules for the batch size against optimizers on simulated noisy quadratics."""

import math

import pytest
import torch
from batch_simulation import stationary_variance

import dashpot as dp
from dashpot.analysis import decouple, scale_batch

NOISE_DOMINATED = {"curvature": 1.0, "noise": 1.0}  # gradient h w has a standard deviation of 0.03, the noise of 1
HORIZONS, EPS, LR = (160, 16_000), 1.0, 4e-3
RATIO = 16


def measured_ratio(before, after, *, curvature, ratio, steps):
    """Return the measured ratio of stationary variances, and its standard error."""
    one, error_one = stationary_variance(before, curvature, 1, steps)
    two, error_two = stationary_variance(after, curvature, ratio, max(40, steps // ratio * 4))
    return two / one, two / one * math.hypot(error_one / one, error_two / two)


def test_temperature_of_sgd_after_the_linear_rule():
    lr, h, ratio = 0.02, 5.0, 8
    scaled = scale_batch(dp.SGD.recipe_for(lr=lr), 1, ratio)
    found, error = measured_ratio(
        lambda p: dp.SGD(p, lr=lr, engine="eager"),
        lambda p: dp.SGD(p, lr=scaled.settings["lr"], engine="eager"),
        curvature=h,
        ratio=ratio,
        steps=200,
    )
    exact = (2 - lr * h) / (2 - ratio * lr * h)
    assert scaled.temperature_ratio(h) == pytest.approx(exact, rel=1e-12)
    assert found == pytest.approx(exact, abs=4 * error)
    assert error < 0.02 * exact


@pytest.mark.slow
@pytest.mark.parametrize("momentum", ["examples", "steps"])
@pytest.mark.parametrize("cls", [dp.SGD, dp.NAG, dp.QHM])
def test_temperature_of_momentum_after_the_linear_rule(cls, momentum):
    pole = {"momentum": 0.95} if cls is dp.SGD else {"pole": 0.95}
    lr = 0.05 if cls is dp.QHM else 2.5e-3
    scaled = scale_batch(cls([_zero()], lr=lr, **pole), 1, 8, momentum=momentum)
    arguments = {**pole, "lr": lr, **scaled.settings}
    found, error = measured_ratio(
        lambda p: cls(p, lr=lr, **pole),
        lambda p: cls(p, **arguments),
        curvature=1.0,
        ratio=8,
        steps=3000,
    )
    assert found == pytest.approx(scaled.temperature_ratio(1.0), abs=4 * error)
    assert error < 0.02 * found


def _zero():
    return torch.zeros(1, requires_grad=True)


def adam(lr, horizons, eps):
    betas = tuple(1 - 1 / n for n in horizons)
    return lambda p: dp.Adam(p, lr=lr, betas=betas, eps=eps)


def frozen_variance(lr, eps, batch):
    """Stationary variance lr sigma^2/(2 h d B) with the constant denominator d = sigma/sqrt(B) + eps."""
    return lr / (2 * (batch**-0.5 + eps) * batch)


SHORTER = tuple(n / RATIO for n in HORIZONS)
# name: (lr, horizons, eps) for 16 examples, and the measured ratio of variances to that of one example
VARIANTS = {
    "square-root rule": (4 * LR, SHORTER, EPS / 4, 1.00),
    "eps multiplied by sqrt(B)": (4 * LR, SHORTER, EPS * 4, 0.12),
    "as printed on the slides": (64 * LR, SHORTER, EPS * 4, 1.90),
    "as printed, horizons of 1": (64 * LR, (1, 1), EPS * 4, None),
    "linear rule": (16 * LR, SHORTER, EPS / 4, 3.97),
    "nothing changed": (LR, HORIZONS, EPS, 0.10),
}


@pytest.mark.slow
def test_square_root_rule_keeps_the_variance_of_adam_and_the_printed_rule_does_not():
    one, _ = stationary_variance(adam(LR, HORIZONS, EPS), batch=1, steps=6000, **NOISE_DOMINATED)
    assert one == pytest.approx(frozen_variance(LR, EPS, 1), rel=0.02)  # h w contributes 1e-3 to E[g^2]
    for name, (lr, horizons, eps, expected) in VARIANTS.items():
        steps = 6000 if name == "nothing changed" else 1200
        variance, _ = stationary_variance(adam(lr, horizons, eps), batch=RATIO, steps=steps, **NOISE_DOMINATED)
        ratio = variance / one
        print(f"{name}: {ratio:.3f}")
        if expected is None:
            assert ratio != pytest.approx(1, rel=0.3)
            continue
        assert ratio == pytest.approx(expected, rel=0.03)  # 3 standard errors of 20 000 coordinates
        frozen = frozen_variance(lr, eps, RATIO) / frozen_variance(LR, EPS, 1)
        assert ratio == pytest.approx(frozen, rel=0.03)


@pytest.mark.slow
def test_scaled_and_decoupled_settings_keep_the_variance_of_adam():
    decoupled = decouple(lr0=LR / EPS, N0=HORIZONS, eps0=EPS, B=RATIO)
    scaled = scale_batch(adam(LR, HORIZONS, EPS)([_zero()]), 1, RATIO)
    one, _ = stationary_variance(adam(LR, HORIZONS, EPS), batch=1, steps=6000, **NOISE_DOMINATED)
    for settings in (decoupled.settings, scaled.settings):
        variance, _ = stationary_variance(
            lambda p, s=settings: dp.Adam(p, **s), batch=RATIO, steps=1200, **NOISE_DOMINATED
        )
        assert variance == pytest.approx(one, rel=0.03)  # 3 standard errors of 20 000 coordinates


@pytest.mark.slow
def test_rate_of_variance_denominator_is_constant_in_noise():
    """The variance denominator is proportional to 1/B, so that the rate is constant."""
    recipe = dp.Recipe(dp.CenteredMoment(1 - 1e-4, eps=0.5, power="variance", uncentered_steps=2), lr=4e-3)
    scaled = scale_batch(recipe, 1, RATIO).recipe
    assert scaled.lr == pytest.approx(recipe.lr)
    one, _ = stationary_variance(lambda p: dp.SGM.from_recipe(p, recipe), batch=1, steps=6000, **NOISE_DOMINATED)
    two, _ = stationary_variance(lambda p: dp.SGM.from_recipe(p, scaled), batch=RATIO, steps=1200, **NOISE_DOMINATED)
    assert two == pytest.approx(one, rel=0.03)  # 3 standard errors of 20 000 coordinates


@pytest.mark.slow
def test_rate_of_adagrad_is_constant_in_noise():
    """The mean of the weights after the same number of examples; sums replace averages in the denominator."""
    steps, drift = 6400, 0.02
    means = {}
    for batch in (1, RATIO):
        settings = {"lr": 1.0, "eps": 1e-10}
        if batch > 1:
            settings |= scale_batch(dp.Adagrad([_zero()], **settings), 1, batch).settings
        generator = torch.Generator().manual_seed(batch)
        w = torch.zeros(20_000, dtype=torch.float64, requires_grad=True)
        w.grad = torch.zeros_like(w)
        optimizer = dp.Adagrad([w], **settings)
        for _ in range(steps // batch):
            w.grad.normal_(drift, batch**-0.5, generator=generator)
            optimizer.step()
        means[batch] = -w.mean().item()
    exact = [drift * batch**0.5 * sum(t**-0.5 for t in range(1, steps // batch + 1)) for batch in (1, RATIO)]
    assert exact[1] == pytest.approx(exact[0], rel=0.03)  # sums in place of integrals
    # the denominator of the first steps fluctuates; the standard error of the mean is 1 %
    assert list(means.values()) == pytest.approx(exact, rel=0.05)


def mean_weight(settings, batch, steps):
    """Return the mean of the weights under AdamW on 0.05 (w - 1)^2/2 with gradient noise of variance 1/batch."""
    generator = torch.Generator().manual_seed(batch)
    w = torch.zeros(4000, dtype=torch.float64, requires_grad=True)
    w.grad = torch.zeros_like(w)
    optimizer, means = dp.AdamW([w], **settings), []
    for step in range(steps):
        w.grad.normal_(0.0, batch**-0.5, generator=generator).add_(0.05 * (w.detach() - 1))
        optimizer.step()
        if step >= steps // 2:
            means.append(w.mean().item())
    return sum(means) / len(means)


@pytest.mark.slow
def test_decay_of_adamw_is_scaled_with_its_rate_to_keep_the_mean_of_the_weights():
    """The fixed point h (1 - w)/d = weight_decay w with d = 1/sqrt(B) is at 0.5 for one example."""
    settings = {"lr": 0.02, "betas": (0.95, 0.9999), "eps": 1e-8, "weight_decay": 0.05}
    scaled = scale_batch(dp.AdamW([_zero()], **settings), 1, RATIO).settings
    assert scaled["weight_decay"] == pytest.approx(0.2)
    unscaled = {**settings, **scaled, "weight_decay": 0.05}
    means = [mean_weight(settings, 1, 6000), mean_weight({**settings, **scaled}, RATIO, 600)]
    print(f"mean weight {means[0]:.3f}, after the rule {means[1]:.3f}")
    assert means == pytest.approx([0.5, 0.5], abs=0.01)  # 2 standard errors, and E[g]^2 in the denominator
    kept = mean_weight(unscaled, RATIO, 600)
    print(f"with unchanged decay {kept:.3f}")
    assert kept == pytest.approx(0.8, abs=0.01)
