"""SGM with custom stages: names of settings, and invalid stages and recipes."""

from dataclasses import dataclass

import pytest
import torch
from contracts.trajectories import parameters, run

import dashpot as dp


@dataclass(frozen=True)
class SgmTestScale(dp.Stage):
    decay: float = 2.5
    mean: float = 0.5
    momentum: float = 0.3

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.decay), s


@dataclass(frozen=True)
class SgmTestWiden(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.sum(1, keepdim=True)), s


def test_custom_setting_can_have_the_name_of_an_argument():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimizer = dp.SGM([w], lr=0.1, filter=dp.Filter(0.9, normalise="exact"), rate=SgmTestScale())
    assert optimizer.recipe.stages == (dp.Filter(0.9), SgmTestScale())
    w.grad = torch.ones_like(w)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2,), 0.75, dtype=torch.float64))


def test_custom_setting_with_a_reserved_name_is_rejected():
    @dataclass(frozen=True)
    class Reserved(dp.Stage):
        lr: float = 0.3

        def apply(self, x, s, c, ctx):
            return x, s

    with pytest.raises(dp.ArgumentError, match="must not have a setting 'lr'"):
        dp.SGM(parameters(), lr=0.1, rate=Reserved())


def test_stage_that_changes_the_shape_is_rejected():
    w = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(dp.ArgumentError, match="SgmTestWiden: the direction must keep the shape"):
        run(dp.SGM([w], lr=0.1, rate=SgmTestWiden()), [w], 1)
    assert torch.equal(w.detach(), torch.ones_like(w))


def test_from_recipe_rejects_other_values():
    with pytest.raises(dp.ArgumentError, match="recipe must be a Recipe"):
        dp.SGM.from_recipe(parameters(), "adam")


def test_from_recipe_accepts_a_schedule():
    recipe = dp.Recipe(dp.Filter(0.9), lr=0.1, schedule={"lr": dp.schedules.Constant(0.5)})
    assert dp.SGM.from_recipe(parameters(), recipe).current_lr() == 0.05
    assert dp.SGM.from_recipe(parameters(), recipe, schedule=None).current_lr() == 0.1
