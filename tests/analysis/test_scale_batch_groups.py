"""Settings for a different batch size: parameter groups, schedules, application, and invalid arguments."""

import dataclasses
import json

import pytest
import torch

import dashpot as dp
from dashpot import schedules
from dashpot.analysis import scale_batch
from dashpot.analysis.time_scaling import rescaled
from dashpot.errors import ArgumentError
from dashpot.schedules import Constant, Schedule


def weights():
    return [torch.nn.Parameter(torch.ones(2))]


def two_groups():
    return dp.AdamW(
        [
            {"params": weights(), "weight_decay": 0.0},
            {"params": weights(), "lr": torch.tensor(0.02, dtype=torch.float64), "betas": (0.95, 0.99)},
        ],
        lr=0.01,
    )


def test_groups_are_scaled_separately_and_applied():
    optimizer = two_groups()
    scaled = scale_batch(optimizer, 10, 40)
    assert scaled.groups[1].settings == {"lr": 0.04, "betas": (0.8, 0.96), "eps": 5e-9, "weight_decay": 0.02}
    assert optimizer.param_groups[0]["lr"] == 0.01
    lr = optimizer.param_groups[1]["lr"]
    assert scaled.apply() is optimizer
    first, second = optimizer.param_groups
    assert (first["lr"], first["betas"], first["weight_decay"]) == (0.02, (0.6, 0.996), 0.0)
    assert (second["lr"] is lr, float(lr), second["betas"]) == (True, 0.04, (0.8, 0.96))
    assert "first of 2 parameter groups" in scaled.summary()
    assert {item.name for item in scaled.quantities()} >= {"groups[0].lr", "groups[1].betas[1]"}


def test_settings_create_an_equal_optimizer():
    scaled = scale_batch(dp.NAG(weights(), lr=0.1, pole=0.9), 64, 128)
    assert dp.NAG(weights(), **scaled.settings).recipe == scaled.recipe


def test_settings_of_recipe_create_an_equal_recipe():
    recipe = dp.QHAdam.recipe_for(lr=0.1)
    scaled = scale_batch(recipe, 64, 128)
    assert recipe.with_settings(**scaled.settings) == scaled.recipe


def test_integer_settings_are_scaled():
    scaled = scale_batch(dp.SGM(weights(), lr=1, decay=dp.DecoupledDecay(1, scale="schedule")), 8, 4)
    assert scaled.settings == {"lr": 0.5, "weight_decay": 0.5}


def test_memory_shorter_than_a_batch_is_clamped():
    scaled = scale_batch(dp.SGD(weights(), lr=0.1, momentum=0.9), 32, 1024)
    assert scaled.settings == {"lr": 32.0, "momentum": 0.0}
    assert "cannot be shortened by the factor 32" in scaled.limits[0]
    assert "momentum='steps'" in scaled.limits[0]


def test_smaller_batch_creates_no_memory():
    assert scale_batch(dp.SGD(weights(), lr=0.1), 32, 8).settings == {"lr": 0.025}
    recipe = dp.Recipe(dp.Filter(0.0), dp.SecondMoment(0.0), lr=0.1)
    assert scale_batch(recipe, 32, 8).recipe.stages[0].pole == 0


def test_zero_rate_is_unchanged_and_decay_is_scaled_as_for_other_rates():
    scaled = scale_batch(dp.AdamW.recipe_for(lr=0.0), 64, 256)
    assert "lr" not in scaled.settings
    assert scaled.settings["weight_decay"] == scale_batch(dp.AdamW.recipe_for(lr=1.0), 64, 256).settings["weight_decay"]
    assert (scaled.groups[0].stable_after, scaled.groups[0].accurate_curvature) == (None, None)
    assert "changes no setting." in scale_batch(dp.SGD.recipe_for(lr=0.0), 1, 2).summary()


def test_huge_ratio_has_limits_and_data():
    scaled = scale_batch(dp.AdamW.recipe_for(lr=0.1), 1, 2**40)
    assert scaled.groups[0].accurate_curvature is None
    assert "The new settings are unstable for every curvature." in scaled.summary()
    assert sum("cannot be shortened" in text for text in scaled.limits) == 2
    assert any("overshoots zero" in text for text in scaled.limits)
    assert json.loads(json.dumps(scaled.to_dict(), allow_nan=False))["ratio"] == 2**40


def test_clipping_is_a_limit():
    scaled = scale_batch(dp.SGD(weights(), lr=0.1, max_norm=1.0), 32, 64)
    assert scaled.limits == ("max_norm is unchanged: the rule holds for steps that it does not clip.",)
    clipped = scale_batch(dp.Recipe(dp.AdaptiveClip(0.01), lr=0.1), 32, 64)
    assert clipped.limits[0].startswith("AdaptiveClip")
    assert [kept.name for kept in clipped.kept] == ["share", "floor"]


# ---- application -----------------------------------------------------------------------------------------------------


def test_apply_to_changed_group_raises_before_any_change():
    optimizer = two_groups()
    scaled = scale_batch(optimizer, 10, 40)
    optimizer.param_groups[1]["betas"] = (0.5, 0.99)
    with pytest.raises(ArgumentError, match=r"betas\[0\] of group 1 must be 0.95, got 0.5"):
        scaled.apply()
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_apply_with_scheduler_raises():
    optimizer = dp.SGD(weights(), lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 10)
    with pytest.raises(ArgumentError, match="group 0 must have no scheduler, got initial_lr"):
        scale_batch(optimizer, 10, 40).apply()


def test_apply_with_schedule_or_to_recipe_raises():
    optimizer = dp.SGD(weights(), lr=0.1, schedule=schedules.Cosine(100))
    with pytest.raises(ArgumentError, match="create the optimizer with `settings` and `schedule`"):
        scale_batch(optimizer, 10, 40).apply()
    with pytest.raises(ArgumentError, match="an optimizer is required; the new recipe is in `recipe`"):
        scale_batch(optimizer.recipe, 10, 40).apply()


def test_apply_after_group_was_added_raises():
    optimizer = dp.SGD(weights(), lr=0.1)
    scaled = scale_batch(optimizer, 10, 40)
    optimizer.add_param_group({"params": weights()})
    with pytest.raises(ArgumentError, match="the optimizer must have 1 parameter groups, got 2"):
        scaled.apply()


# ---- schedules -------------------------------------------------------------------------------------------------------

EXACT = [
    schedules.Constant(0.5),
    schedules.Cosine(80, floor=0.1),
    schedules.Cosine(80, after="rise"),
    schedules.CosineRestarts(16, mult=2),
    schedules.Cyclic(up=8, down=16, floor=0.1),
    schedules.Exponential(0.99),
    schedules.InverseTime(0.1),
    schedules.InverseTime(0.1, interval=20),
    schedules.Linear(1.0, 0.2, steps=80),
    schedules.LinearWarmup(80),
    schedules.MultiStep((20, 40)),
    schedules.Polynomial(80, power=2),
    schedules.StepDecay(0.5, every=20),
    schedules.Window("raised-cosine", 80),
    schedules.Window("polynomial", 80, hold=8),
    schedules.OriginalWindow("raised-cosine", 80, hold=8),
    schedules.Sequence((schedules.LinearWarmup(40), schedules.Cosine(80)), (40,)),
    schedules.LinearWarmup(40) * schedules.Exponential(0.99),
]


@pytest.mark.parametrize("schedule", EXACT, ids=lambda item: repr(item)[:50])
def test_rescaled_schedule_has_the_values_of_every_fourth_step(schedule):
    new, rounded = rescaled(schedule, 4)
    assert rounded == ()
    assert new.table(40) == pytest.approx(schedule.table(160)[::4], rel=1e-9, abs=1e-12)
    assert rescaled(new, 0.25).schedule.table(100) == pytest.approx(schedule.table(100), rel=1e-9, abs=1e-12)


def test_rescaled_schedules_that_count_from_one_step_are_equal_at_their_ends():
    warm = schedules.ExponentialWarmup(0.99)
    # F = 1 - rho^(s+1) at the end of step s
    assert rescaled(warm, 4).schedule(24) == pytest.approx(warm(99), rel=1e-9)
    assert rescaled(schedules.OneCycle(80), 4).schedule == schedules.OneCycle(20)


def test_every_schedule_class_is_rescaled():
    from dashpot.analysis.time_scaling import _RESCALE

    built_in = {cls for cls in Schedule.registry.values() if cls.__module__.startswith("dashpot.schedules")}
    assert set(_RESCALE) == built_in


def test_rounded_lengths_are_reported():
    recipe = dp.SGD.recipe_for(lr=0.1).with_settings(schedule=schedules.from_name("warmup-cosine", 1000))
    scaled = scale_batch(recipe, 64, 1024)
    (change,) = scaled.schedule_changes
    assert "rounded: steps 6.25 to 6, steps 56.25 to 56, milestone 6.25 to 6" in change.reason
    assert scaled.recipe.schedule[0][1].milestones == (6,)


def test_milestones_that_coincide_raise():
    recipe = dp.SGD.recipe_for(lr=0.1).with_settings(schedule=schedules.MultiStep((10, 11)))
    with pytest.raises(ArgumentError, match=r"milestones must be distinct after division by 16, got \(10, 11\)"):
        scale_batch(recipe, 1, 16)


def test_overflowing_factor_raises():
    with pytest.raises(ArgumentError, match="to the power 1e\\+06 is out of range"):
        rescaled(schedules.Exponential(2.0), 1e6)


@dataclasses.dataclass(frozen=True)
class Halves(Schedule):
    every: int = 10

    def _at(self, step):
        return 0.5 ** (step // self.every)


@dataclasses.dataclass(frozen=True)
class Fixed(Schedule):
    @property
    def absolute(self):
        return True

    def _at(self, step):
        return 0.3


def test_user_defined_schedule_is_a_limit():
    scaled = scale_batch(dp.SGD(weights(), lr=0.1, schedule=Halves() * Constant(0.5)), 10, 40)
    assert scaled.schedule == {"lr": Halves() * Constant(0.5)}
    assert "user-defined and unchanged: the same number of examples has 1/4 of the steps" in scaled.limits[0]


def test_momentum_of_onecycle_is_converted():
    momentum = schedules.OneCycleMomentum(80)
    optimizer = dp.AdamW(weights(), lr=0.1, schedule={"betas[0]": momentum, "lr": schedules.OneCycle(80)})
    scaled = scale_batch(optimizer, 10, 20)
    assert scaled.schedule["betas[0]"] == schedules.OneCycleMomentum(40, high=0.9, low=0.7)
    held = scale_batch(optimizer, 10, 20, momentum="steps")
    assert held.schedule["betas[0]"] == schedules.OneCycleMomentum(40)


def test_relative_schedule_of_pole_is_a_limit():
    optimizer = dp.Adam(weights(), lr=0.1, schedule={"betas[1]": schedules.Linear(0.9, 1.0, 10)})
    assert any("schedule of betas[1] multiplies the new value" in text for text in scale_batch(optimizer, 1, 2).limits)


# ---- invalid arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, -1, 1.5, "64", None, True])
@pytest.mark.parametrize("name", ["from_", "to"])
def test_invalid_batch_raises(bad, name):
    sizes = {"from_": 64, "to": 128, name: bad}
    with pytest.raises(ArgumentError, match=rf"scale_batch: {name} must be an integer in \[1, inf\), got"):
        scale_batch(dp.SGD.recipe_for(), **sizes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((dp.SGD.recipe_for(), 64, 64), "from_ and to must differ, got 64 for both"),
        ((dp.SGD.recipe_for(), 64, 128, "cube"), "rule must be one of 'auto', 'linear', 'sqrt', got 'cube'"),
        ((0.1, 64, 128), "recipe_or_optimizer must be a Recipe or a dashpot optimizer, got 0.1"),
    ],
)
def test_invalid_argument_raises(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        scale_batch(*arguments)


def test_invalid_momentum_raises():
    with pytest.raises(ArgumentError, match=r"momentum must be one of 'examples', 'steps', got 0.9"):
        scale_batch(dp.SGD.recipe_for(), 64, 128, momentum=0.9)


def test_torch_optimizer_is_not_accepted():
    with pytest.raises(ArgumentError, match="must be a Recipe or a dashpot optimizer, got the optimizer SGD of torch"):
        scale_batch(torch.optim.SGD(weights()), 64, 128)


def test_tensor_without_value_raises():
    recipe = dp.Recipe(lr=torch.tensor(0.1, device="meta"))
    with pytest.raises(ArgumentError, match="lr must be a number or a tensor on the CPU, got a tensor on meta"):
        scale_batch(recipe, 64, 128)


@dataclasses.dataclass(frozen=True)
class Sign(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.sign()), s


def test_user_defined_stage_has_no_rule():
    with pytest.raises(ArgumentError, match="no rule covers the stage Sign: its dependence on the batch is unknown"):
        scale_batch(dp.Recipe(Sign(), lr=0.1), 64, 128)
    scaled = scale_batch(dp.Recipe(Sign(), lr=0.1), 64, 128, rule="linear")
    assert scaled.settings == {"lr": 0.2}
    assert scaled.groups[0].stable_after is None
    assert "stable" not in scaled.summary()
