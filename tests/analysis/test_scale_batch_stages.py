"""Settings for a different batch size: every stage, and combinations of schedules."""

import pytest
import torch

import dashpot as dp
from dashpot import schedules
from dashpot.analysis import reach, robbins_monro, scale_batch
from dashpot.analysis.batch_rules import _RULES
from dashpot.errors import ArgumentError

# a stage, changes for four times the batch (steps mean momentum="steps"), and a part of a limit
STAGES = [
    (dp.Filter(0.9, gain=0.1, normalise="none"), {"lr": 0.4, "pole": 0.6, "gain": 0.4}, None),
    (
        dp.Filter(0.9, zero=9 / 19, gain=1.9, normalise="none"),
        {"lr": 1.6, "pole": 0.6, "zero": 0.375, "gain": 1.6},
        None,
    ),
    (dp.Filter(0.9, normalise="running"), {"lr": 0.4, "pole": 0.6}, None),
    (dp.Filter(0.9, zero=-0.5), {"lr": 0.4, "pole": 0.6}, None),
    (dp.Filter(0.0, zero=-0.5), {"lr": 0.4}, "A filter without a pole has no horizon"),
    (dp.NesterovMoment(0.9, 0.0), {"lr": 0.4, "beta": 0.6}, None),
    (dp.NesterovMoment(0.9, 0.004), {"lr": 0.4, "beta": 0.6, "momentum_decay": 0.016}, None),
    (dp.SecondMoment(0.99, 0.0), {"lr": 0.2, "beta": 0.96}, "E[g^2] ~ sigma^2/B"),
    (dp.SecondMoment(0.99, 0.0, nu=0.5), {"lr": 0.2, "beta": 0.96}, "E[g^2] ~ sigma^2/B"),
    (dp.SecondMoment(0.99, 0.0, maximum=True), {"lr": 0.2, "beta": 0.96}, "AMSGrad"),
    (dp.SecondMoment(1.0, 0.0, average="sum", initial=0.1), {}, "The initial value of the second moment is unchanged"),
    (dp.SecondMoment(0.99, 0.0, average="sum"), {"beta": 0.96}, "E[g^2] ~ sigma^2/B"),
    (dp.CenteredMoment(0.99, 0.0), {"lr": 0.2, "beta": 0.96}, None),
    (dp.Warmup(0.9), {"lr": 0.4, "rho": 0.6561}, None),
    (dp.Warmup(0.9, "products"), {"lr": 0.4}, None),
    (dp.stages.RateDecay(0.01), {"lr": 0.4, "lr_decay": 0.04}, None),
    (dp.CoupledDecay(0.1), {"lr": 0.4}, None),
    (dp.DecoupledDecay(0.1), {"lr": 0.4}, None),
    (dp.DecoupledDecay(0.1, "schedule"), {"lr": 0.4, "weight_decay": 0.4}, None),
    (dp.ChangeDecay(0.1, 0.5), {"lr": 0.4}, None),
    (dp.ChangeDecay(0.1, 0.5, "constant"), {"lr": 0.4, "weight_decay": 0.4}, None),
    (dp.AdaptiveClip(0.1), {"lr": 0.4}, "AdaptiveClip: gradients of larger batches have less noise"),
    (dp.HuberClip(), {"lr": 0.4}, "HuberClip: the rule holds for steps that are not clipped"),
    (dp.ClipElements(), {"lr": 0.4}, "ClipElements: the rule holds for steps that are not clipped"),
    (dp.stages.Negate(), {"lr": 0.4}, None),
    (dp.stages.NudgeSmallWeights(1e-3), {"lr": 0.4}, None),
]
WITHOUT_RULE = [dp.Curvature(), dp.Parcor(), dp.HuberParcor(), dp.MomentRate()]


@pytest.mark.parametrize(("stage", "expected", "limit"), STAGES, ids=lambda item: repr(item)[:60])
def test_changes_of_stage(stage, expected, limit):
    scaled = scale_batch(dp.Recipe(stage, lr=0.1), 16, 64)
    assert scaled.settings == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    assert any(limit in text for text in scaled.limits) if limit else scaled.limits == ()


@pytest.mark.parametrize("stage", [dp.NesterovMoment(0.9), dp.Filter(0.9)])
def test_momentum_in_steps_keeps_the_stage(stage):
    scaled = scale_batch(dp.Recipe(stage, lr=0.1), 16, 64, momentum="steps")
    assert scaled.settings.keys() <= {"lr", "momentum_decay"}
    assert scaled.kept[-1].reason.startswith("the momentum is held per step")


@pytest.mark.parametrize("stage", WITHOUT_RULE, ids=lambda stage: type(stage).__name__)
def test_stage_without_rule_raises(stage):
    with pytest.raises(ArgumentError, match=f"no rule covers the stage {type(stage).__name__}"):
        scale_batch(dp.Recipe(stage, lr=0.1), 16, 64)


def test_every_stage_is_tested():
    built_in = {cls for cls in dp.Stage.registry.values() if cls.__module__.startswith("dashpot.stages")}
    tested = {type(stage) for stage, *_ in STAGES} | {type(stage) for stage in WITHOUT_RULE}
    assert tested == set(_RULES) == {cls for cls in built_in if not cls.__name__.startswith("_")}


def test_nested_schedule_of_the_momentum_is_converted():
    pole = schedules.OneCycleMomentum(80) * schedules.Constant(1.0)
    recipe = dp.Recipe(dp.Filter(0.9), lr=0.1, schedule={"pole": pole})
    scaled = scale_batch(recipe, 10, 20).schedule["pole"]
    assert scaled == schedules.OneCycleMomentum(40, high=0.9, low=0.7) * schedules.Constant(1.0)


def test_schedule_that_replaces_the_rate_is_multiplied():
    rate = schedules.Constant(0.3)
    recipe = dp.SGD.recipe_for(lr=0.1).with_settings(schedule=rate)
    assert scale_batch(recipe, 10, 40).recipe.schedule == recipe.schedule  # a factor on the scaled rate
    absolute = schedules.OneCycleMomentum(80)  # values that replace the base value
    scaled = scale_batch(dp.SGD.recipe_for(lr=0.1).with_settings(schedule=absolute), 10, 40)
    assert scaled.recipe.at(0)[0].lr == pytest.approx(4 * absolute(0))


def test_rates_that_are_not_numbers_raise():
    with pytest.raises(ArgumentError, match=r"the learning rate must be a number in .* got 'fast' at 0"):
        reach(lambda step: "fast", steps=3, base=1)


def test_zero_geometric_factor_of_torch_is_fitted():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    found = robbins_monro(torch.optim.lr_scheduler.StepLR(opt, 10, gamma=0.0), steps=10_000)
    assert "0 from step 10 on" in found.reason


def test_geometric_product_sums_numerically():
    schedule = schedules.Exponential(0.9) * schedules.InverseTime(0.1)
    assert reach(schedule).total == pytest.approx(sum(schedule.table(1000)), rel=1e-12)
