"""Faults a review found, each as it was reproduced."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dashpot as dp


def ones(*shape):
    return torch.ones(*shape, dtype=torch.float64, requires_grad=True)


def push(optimizer, *params):
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_a_schedule_goes_on_while_other_parameters_are_frozen():
    a, b = ones(2), ones(2)
    optimizer = dp.SGD([a, b], lr=1.0, schedule=dp.schedules.Linear(steps=20, start=1.0, end=0.0))
    for _ in range(10):
        push(optimizer, a)
    a.grad = None
    for _ in range(5):
        push(optimizer, b)
    assert optimizer.steps_done() == 15
    assert optimizer.current_lr() == pytest.approx(0.25)
    again = dp.SGD([ones(2), ones(2)], lr=1.0, schedule=dp.schedules.Linear(steps=20, start=1.0, end=0.0))
    again.load_state_dict(optimizer.state_dict())
    assert again.current_lr() == optimizer.current_lr()


def test_groups_of_another_optimizer_bring_no_step_count():
    a = ones(2)
    first = dp.SGD([a], lr=1.0)
    push(first, a)
    assert dp.SGD(first.param_groups, lr=1.0).steps_done() == 0


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        (lambda p: dp.SGD(p, momentum=0.9), dp.AdamW),
        (
            lambda p: dp.SGM(p, filter=dp.Filter(0.9)),
            lambda p: dp.SGM(p, filter=dp.Filter(0.9), rate=dp.SecondMoment()),
        ),
        (dp.Adam, dp.AutoSGM),
    ],
)
def test_state_of_another_method_is_refused(saved, loading):
    a, b = ones(2), ones(2)
    first, second = saved([a]), loading([b])
    push(first, a)
    with pytest.raises(dp.ArgumentError, match="of another method"):
        second.load_state_dict(first.state_dict())
    assert not second.state


@dataclass(frozen=True)
class ReviewStage(dp.Stage):
    decay: float = 2.5
    mean: float = 0.5
    momentum: float = 0.3

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * c.decay), s


def test_the_settings_of_ones_own_stage_may_have_any_name_but_the_groups_own():
    a = ones(2)
    optimizer = dp.SGM([a], lr=0.1, filter=dp.Filter(0.9, normalise="exact"), rate=ReviewStage())
    assert optimizer.recipe.stages == (dp.Filter(0.9), ReviewStage())
    push(optimizer, a)
    torch.testing.assert_close(a.detach(), torch.full((2,), 0.75, dtype=torch.float64))

    @dataclass(frozen=True)
    class Reserved(dp.Stage):
        lr: float = 0.3

        def apply(self, x, s, c, ctx):
            return x, s

    with pytest.raises(dp.ArgumentError, match="must not have a setting 'lr'"):
        dp.SGM([ones(2)], lr=0.1, rate=Reserved())


def test_a_rate_a_rounding_below_zero_is_zero_and_a_negative_one_refused():
    a = ones(2)
    optimizer = dp.SGD([a], lr=0.1)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 3, 0.0, 5)
    for _ in range(8):
        push(optimizer, a)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0  # the case in question
    optimizer.param_groups[0]["lr"] = -1e-6
    with pytest.raises(dp.ArgumentError, match="lr must be"):
        optimizer.step()


def test_a_scheduled_decay_never_exceeds_its_constant():
    a = ones(2)
    optimizer = dp.AdamW([a], lr=1e-2, weight_decay=0.1, decay_scale="schedule")
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-3, 1e-2, step_size_up=4, cycle_momentum=False)
    for _ in range(8):
        before = a.detach().clone()
        a.grad = torch.zeros_like(a)
        optimizer.step()
        torch.testing.assert_close(a.detach(), before * 0.9, rtol=1e-12, atol=0)
        scheduler.step()


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5)])
def test_numpy_numbers_are_taken_as_pythons(number):
    optimizer = dp.SGD([ones(2)], lr=number, momentum=number)
    assert repr(optimizer.recipe).count("np.") == 0
    assert {type(optimizer.param_groups[0][key]) for key in ("lr", "momentum")} == {float}


def test_pole_may_be_written_for_the_first_of_betas():
    optimizer = dp.Adam([{"params": [ones(2)], "pole": 0.5}])
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)


def test_what_is_no_recipe_and_no_state_is_one_sentence():
    with pytest.raises(dp.ArgumentError, match="recipe must be a Recipe"):
        dp.SGM.from_recipe([ones(2)], "adam")
    with pytest.raises(dp.ArgumentError, match="'state' and 'param_groups'"):
        dp.Adam([ones(2)]).load_state_dict({})


@dataclass(frozen=True)
class ReviewWider(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v.sum(1, keepdim=True)), s


def test_a_stage_that_changes_the_shape_is_named():
    a = ones(3, 2)
    with pytest.raises(dp.ArgumentError, match="ReviewWider: the direction must keep the shape"):
        push(dp.SGM([a], lr=0.1, rate=ReviewWider()), a)
    assert torch.equal(a.detach(), torch.ones_like(a))


@pytest.mark.parametrize("step", [-1, "0", 1.5])
def test_the_functional_form_refuses_a_bad_step(step):
    recipe, w = dp.AdamW.recipe_for(), torch.ones(2)
    with pytest.raises(dp.ArgumentError, match="step must be"):
        dp.functional.update(recipe, w, w, dp.functional.init(recipe, w), step)


def test_the_functional_form_refuses_gradients_that_do_not_fit():
    recipe, w = dp.AdamW.recipe_for(), torch.ones(2)
    state = dp.functional.init(recipe, w)
    with pytest.raises(dp.ArgumentError, match="its parameter's shape"):
        dp.functional.update(recipe, w, torch.ones(3, 2), state, 0)
    with pytest.raises(dp.ArgumentError, match="keys of params"):
        dp.functional.update(recipe, {"w": w}, {"w": w, "v": w}, {"w": state}, 0)
