"""Settings for a different batch size: rules, decay, groups, and methods without a rule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dashpot as dp
from dashpot.analysis import response, scale_batch
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS

HEAVY_BALL = dp.Filter(0.9, gain=1.0, normalise="none")
WITHOUT_RULE = {"esgd": "Curvature", "adahessian": "Curvature", "sophia": "Curvature"}
SCALED = sorted(METHODS.keys() - WITHOUT_RULE.keys())


def weights(*values):
    return [torch.nn.Parameter(torch.tensor(values or (1.0, -2.0), dtype=torch.float64))]


def influence(optimizer, steps=100):
    """Return the total change of a weight due to one gradient of 1, from steps of the optimizer itself."""
    w = optimizer.param_groups[0]["params"][0]
    before = w.detach().clone()
    for step in range(steps):
        w.grad = torch.full_like(w, 1.0 if step == 0 else 0.0)
        optimizer.step()
    return float((before - w.detach())[0])


@pytest.mark.parametrize(
    ("cls", "settings", "momentum"),
    [
        (dp.SGD, {"lr": 0.1}, "examples"),
        (dp.SGD, {"lr": 0.1, "momentum": 0.75}, "examples"),
        (dp.SGD, {"lr": 0.1, "momentum": 0.75}, "steps"),
        (dp.SGD, {"lr": 0.1, "momentum": 0.75, "nesterov": True}, "examples"),
        pytest.param(dp.HeavyBall, {"lr": 0.1, "pole": 0.5}, "examples", marks=pytest.mark.slow),
        (dp.NAG, {"lr": 0.1, "pole": 0.75}, "examples"),
        (dp.QHM, {"lr": 0.1, "pole": 0.75, "nu": 0.6}, "examples"),
        pytest.param(dp.QHM, {"lr": 0.1, "pole": 0.75, "nu": 0.6}, "steps", marks=pytest.mark.slow),
        pytest.param(
            dp.SGM,
            {"lr": 0.1, "filter": dp.Filter(0.75, zero=-0.3, normalise="none")},
            "examples",
            marks=pytest.mark.slow,
        ),
        (dp.SGM, {"lr": 0.1, "filter": dp.Filter(0.75, zero=0.5, gain=1.3, normalise="none")}, "examples"),
    ],
)
def test_influence_of_one_example_is_constant_by_linear_rule(cls, settings, momentum):
    before = influence(cls(weights(), engine="eager", **settings))
    scaled = scale_batch(cls(weights(), engine="eager", **settings), 32, 96, momentum=momentum)
    after = influence(scaled.apply())
    assert scaled.rule == "linear"
    # settings are rounded to 12 digits; impulse responses have decayed to 0.75^100 = 3e-13
    assert after == pytest.approx(3 * before, rel=1e-11)


def test_average_covers_the_same_number_of_examples():
    recipe = dp.QHM.recipe_for(lr=0.1, momentum=0.99, nu=1.0)
    for batch in (16, 64, 640):
        pole = scale_batch(recipe, 32, batch).recipe.stages[1].pole
        assert batch / (1 - pole) == pytest.approx(32 / (1 - 0.99), rel=1e-9)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    pole=st.floats(0.01, 0.999),
    zero=st.floats(-3.0, 0.99),
    gain=st.one_of(st.none(), st.floats(0.05, 3.0)),
    ratio=st.sampled_from([0.25, 0.5, 2.0, 3.0, 10.0]),
)
def test_any_filter_keeps_influence_and_form(pole, zero, gain, ratio):
    before = dp.Recipe(dp.Filter(pole, zero, gain, normalise="none"), lr=0.1)
    batches = (1000, round(1000 * ratio))
    after = scale_batch(before, *batches).recipe
    effective = [recipe.lr * response(recipe).dc_gain for recipe in (before, after)]
    assert effective[1] == pytest.approx(ratio * effective[0], rel=1e-9)
    new = after.stages[0]
    assert new.pole == pytest.approx(max(0, 1 - ratio * (1 - pole)), abs=1e-11)
    assert new.zero < 1
    if new.pole > 0 and zero < 0:
        assert new.zero == zero
    elif new.pole > 0:
        shares = [(stage.pole - stage.zero) / (stage.pole * (1 - stage.zero)) for stage in (before.stages[0], new)]
        assert shares[1] == pytest.approx(shares[0], rel=1e-6, abs=1e-6)  # nu of QHM


def test_dampening_is_kept_and_rate_compensates():
    scaled = scale_batch(dp.SGD.recipe_for(lr=0.1, momentum=0.9, dampening=0.5), 32, 64)
    point = scaled.recipe.stages[1]
    # 0.5/(1 - 0.9) = 5 before, 0.5/(1 - 0.8) = 2.5 after
    assert (point.pole, point.gain, scaled.recipe.lr) == (0.8, 0.5, pytest.approx(0.4))


def test_rate_of_torch_momentum_is_one_minus_momentum_times_batch_times_lr0():
    lr0, momentum = 1e-4, 0.9
    for batch, scaled_momentum in ((64, 0.9), (128, 0.8), (320, 0.5), (1280, 0.0)):
        recipe = dp.SGD.recipe_for(lr=(1 - momentum) * 64 * lr0, momentum=momentum)
        if batch != 64:
            scaled = scale_batch(dp.SGD(weights(), lr=recipe.lr, momentum=momentum), 64, batch).settings
            assert scaled["momentum"] == pytest.approx(scaled_momentum, abs=1e-12)
            assert scaled["lr"] == pytest.approx((1 - scaled_momentum) * batch * lr0, rel=1e-11)
            held = scale_batch(recipe, 64, batch, momentum="steps")
            assert held.settings == {"lr": pytest.approx((1 - momentum) * batch * lr0, rel=1e-11)}


def test_square_root_rule_of_adam():
    scaled = scale_batch(dp.Adam(weights(), lr=1e-3, betas=(0.99, 0.999), eps=1e-6), 64, 256)
    assert scaled.rule == "sqrt"
    assert scaled.settings == {"lr": 2e-3, "betas": (0.96, 0.996), "eps": 5e-7}
    assert [change.name for change in scaled.changes] == ["lr", "betas[0]", "betas[1]", "eps"]
    assert scale_batch(dp.Adam.recipe_for(lr=1e-3), 64, 256, rule="linear").settings["lr"] == 4e-3


@pytest.mark.parametrize(
    ("stage", "lr", "eps"),
    [
        (dp.SecondMoment(eps=1e-6), 2.0, 5e-7),
        (dp.SecondMoment(eps=1e-6, eps_mode="gradient"), 2.0, 5e-7),
        (dp.SecondMoment(eps=1e-6, eps_mode="inside"), 2.0, 2.5e-7),
        (dp.CenteredMoment(eps=1e-6), 2.0, 5e-7),
        (dp.CenteredMoment(eps=1e-6, power="variance"), 1.0, 2.5e-7),  # d is proportional to 1/B
        (dp.SecondMoment(1.0, eps=1e-6, average="sum"), 1.0, 2.5e-7),  # a quarter of the terms, each a quarter as large
    ],
)
def test_rate_follows_the_denominator(stage, lr, eps):
    recipe = scale_batch(dp.Recipe(stage, lr=1.0), 8, 32).recipe
    assert (recipe.lr, recipe.stages[0].eps) == (pytest.approx(lr), pytest.approx(eps))
    assert recipe.lr * scale_batch(dp.Recipe(stage, lr=1.0), 8, 32).groups[0].shrink == pytest.approx(4)


@pytest.mark.diagonal
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("momentum", ["examples", "steps"])
def test_change_back_restores_every_method(name, momentum):
    cls = METHODS[name].cls
    optimizer = cls(weights(), lr=0.01, weight_decay=0.01)
    there = scale_batch(optimizer.recipe, 64, 256, momentum=momentum)
    back = scale_batch(there.recipe, 256, 64, momentum=momentum)
    one, two = optimizer.recipe.settings(), back.recipe.settings()
    assert one.keys() == two.keys()
    for key, value in {**one, "lr": 0.01}.items():
        assert {**two, "lr": back.recipe.lr}[key] == pytest.approx(value, rel=1e-9), key  # two roundings to 12 digits
    assert scale_batch(optimizer, 64, 256, momentum=momentum).groups[0].recipe.lr == there.recipe.lr


@pytest.mark.parametrize("name", SCALED)
def test_two_changes_equal_one(name):
    recipe = METHODS[name].cls(weights(), lr=0.01, weight_decay=0.01).recipe
    direct = scale_batch(recipe, 64, 256).recipe
    composed = scale_batch(scale_batch(recipe, 64, 128).recipe, 128, 256).recipe
    for key, value in {**direct.settings(), "lr": direct.lr}.items():
        assert {**composed.settings(), "lr": composed.lr}[key] == pytest.approx(value, rel=1e-9), key


@pytest.mark.parametrize("name", SCALED)
def test_optimizer_and_recipe_agree_and_summary_is_complete(name):
    optimizer = METHODS[name].cls(weights(), lr=0.01, weight_decay=0.01)
    by_group, by_recipe = scale_batch(optimizer, 64, 256), scale_batch(optimizer.recipe, 64, 256)
    for key, value in by_recipe.recipe.settings().items():
        assert by_group.recipe.settings()[key] == pytest.approx(value, rel=1e-11), key
    assert by_group.summary().startswith("For a batch size of 256 in place of 64 (4 times), the ")
    assert all(change.reason for change in by_group.changes)
    assert all(kept.reason for kept in by_group.kept)
    assert optimizer.param_groups[0]["lr"] == 0.01  # not changed


@pytest.mark.parametrize("name", WITHOUT_RULE)
def test_method_without_rule_states_the_reason(name):
    recipe = METHODS[name].cls.recipe_for()
    with pytest.raises(ArgumentError, match=f"no rule covers the stage {WITHOUT_RULE[name]}: its noise"):
        scale_batch(recipe, 64, 256)
    forced = scale_batch(recipe, 64, 256, rule="linear")
    assert any(text.startswith(f"{WITHOUT_RULE[name]} is unchanged") for text in forced.limits)


@pytest.mark.parametrize("numerator", [1, 2, 3])
def test_data_dependent_rate_has_no_rule(numerator):
    with pytest.raises(ArgumentError, match="it computes the learning rate from data"):
        scale_batch(dp.AutoSGM(weights(), lr=0.01, numerator=numerator), 64, 128)


def test_setting_that_two_stages_share_is_listed_once():
    scaled = scale_batch(dp.AutoSGM(weights(), lr=0.01, numerator=4), 64, 256)
    assert [change.name for change in scaled.changes].count("eps") == 1
    assert scaled.settings["eps"] == 5e-9


# ---- decay -----------------------------------------------------------------------------------------------------------


def shrinkage(optimizer, steps):
    """Return -log of the factor on a weight after steps with a gradient of 0."""
    w = optimizer.param_groups[0]["params"][0]
    before = w[0].item()
    for _ in range(steps):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    return -math.log(w[0].item() / before)


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (dp.SGD, {"lr": 1e-2, "weight_decay": 0.05}),
        (dp.AdamW, {"lr": 1e-2, "weight_decay": 0.05}),
        (dp.AdamW, {"lr": 1e-2, "weight_decay": 5e-4, "decay_scale": "constant"}),
        (dp.QHAdam, {"lr": 1e-2, "weight_decay": 0.05}),
        (dp.AutoSGM, {"lr": 1e-2, "weight_decay": 0.05, "decay": "change"}),
        (dp.SGM, {"lr": 1e-2, "filter": HEAVY_BALL, "decay": dp.DecoupledDecay(0.05)}),
        (dp.SGM, {"lr": 1e-2, "filter": HEAVY_BALL, "decay": dp.ChangeDecay(0.05)}),
    ],
)
def test_weights_shrink_equally_per_example(cls, settings):
    before = shrinkage(cls(weights(), engine="eager", **settings), 80)
    after = shrinkage(scale_batch(cls(weights(), engine="eager", **settings), 16, 64).apply(), 20)
    # the decay per step is at most 2e-3, which changes the logarithm relative to a small decay by half as much
    assert after == pytest.approx(before, rel=2e-3)


def test_decay_of_adamw_has_the_same_fixed_point():
    """The minimum of loss plus decay, E[v/d] + weight_decay w = 0, with v/d proportional to sqrt(ratio)."""
    scaled = scale_batch(dp.AdamW(weights(), lr=1e-3, weight_decay=0.02), 64, 256)
    assert scaled.settings["weight_decay"] == pytest.approx(0.02 * scaled.groups[0].shrink)


def test_decay_that_overshoots_is_a_limit():
    scaled = scale_batch(dp.AdamW(weights(), lr=1e-3, weight_decay=0.2, decay_scale="constant"), 1, 8)
    assert any("subtracts 1.6 times the weight per step" in text for text in scaled.limits)


# ---- range of the rule -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "ratio"), [(8, 1.0035), (64, 1.0325)])
def test_temperature_ratio_of_sgd_is_exact(batch, ratio):
    lr0, h = 1e-3, 1.0
    scaled = scale_batch(dp.SGD.recipe_for(lr=lr0), 1, batch)
    exact = (2 - lr0 * h) / (2 - batch * lr0 * h)
    assert scaled.temperature_ratio(h) == pytest.approx(exact, rel=1e-12)
    assert exact == pytest.approx(ratio, abs=5e-5)


def test_curvature_range_of_sgd():
    group = scale_batch(dp.SGD.recipe_for(lr=0.1), 1, 8).groups[0]
    assert (group.stable_before, group.stable_after) == (pytest.approx(20), pytest.approx(2.5))
    # (2 - x)/(2 - 8 x) = 1.1 at x = lr0 h = 0.2/7.8
    assert group.accurate_curvature == pytest.approx(0.2 / 7.8 / 0.1, rel=2e-5)  # bisection


def test_curvature_range_of_adam_is_in_units_of_the_old_denominator():
    group = scale_batch(dp.RMSprop.recipe_for(lr=0.1), 1, 16).groups[0]
    assert (group.stable_before, group.stable_after) == (pytest.approx(20), pytest.approx(20 / 16))


def test_off_label_rule_changes_the_temperature():
    scaled = scale_batch(dp.SGD.recipe_for(lr=0.1), 1, 16, rule="sqrt")
    assert scaled.settings == {"lr": 0.4}
    assert scaled.temperature_ratio(1e-6) == pytest.approx(0.25, rel=1e-6)
    assert scaled.groups[0].accurate_curvature is None


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan])
def test_temperature_ratio_of_nonpositive_curvature_raises(curvature):
    with pytest.raises(ArgumentError, match=r"curvature must be a number in \(0, inf\)"):
        scale_batch(dp.SGD.recipe_for(lr=0.1), 1, 8).temperature_ratio(curvature)


def test_temperature_ratio_of_unstable_settings_raises():
    with pytest.raises(ArgumentError, match="the settings after the change must have a stationary variance"):
        scale_batch(dp.SGD.recipe_for(lr=0.1), 1, 8).temperature_ratio(5.0)


@pytest.mark.parametrize("recipe", [dp.SGD.recipe_for(lr=0.1, momentum=0.9), dp.AdamW.recipe_for(lr=1e-3)])
def test_plot_returns_figure_of_given_axes(recipe):
    scaled = scale_batch(recipe, 64, 128)
    figure = scaled.plot()
    assert scaled.plot(figure.axes[0]) is figure
