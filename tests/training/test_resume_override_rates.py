"""Hyperparameters of a fit resumed with `override=True`: current values, and not decayed or saved ones."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from learner_support import StopAt, learner
from schedule_support import BOTH_SGD, TORCH_SCHEDULERS, StepValues, step_values
from slow_values import others_slow
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.errors import RunError
from dashpot.schedules import Cosine, OneCycleMomentum, Plateau
from dashpot.training import Callback, Recorder, Schedule, one_cycle
from dashpot.training.state.group_settings import SCHEDULER_KEYS

PATHS = {"torch.SGD": "momentum", "SGD": "momentum", "torch.AdamW": "betas[0]", "AdamW": "betas[0]"}
MAKERS = {
    "torch.SGD": partial(torch.optim.SGD, momentum=0.9),
    "SGD": partial(dp.SGD, momentum=0.9),
    "torch.AdamW": torch.optim.AdamW,
    "AdamW": dp.AdamW,
}
SCHEDULES = {
    **TORCH_SCHEDULERS,
    "onecycle with momentum": partial(lr_scheduler.OneCycleLR, max_lr=0.5),
    "plateau": Plateau(factor=0.1, patience=0),
    "1cycle": one_cycle(0.3).schedule,
    "mapping": {"lr": Cosine(6), "momentum": OneCycleMomentum(6), "weight_decay": Cosine(6)},
}


def state_after(batches, make, schedules, lr=0.5):
    """Return the state of a fit of two epochs, six steps, at a step; its rate has decayed."""
    stop = StopAt(batches)
    learner(make, lr, callbacks=[*schedules, stop]).fit(2)
    return stop.state


def scheduler_keys(opt):
    return [name for group in opt.param_groups for name in group if name.startswith(SCHEDULER_KEYS)]


@pytest.mark.diagonal
@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("schedule", others_slow(SCHEDULES, "cosine", "onecycle with momentum", "plateau", "mapping"))
@pytest.mark.parametrize("make", MAKERS)
def test_resume_without_the_schedule_of_the_checkpoint_uses_the_rate_set_here(make, schedule, older):
    state = state_after(5, MAKERS[make], [Schedule(SCHEDULES[schedule])])
    if older:  # the format of earlier checkpoints
        del state["settings"]["groups"], state["callbacks"]["Schedule"]["scheduled"]
    seen = Recorder("lr", PATHS[make], "weight_decay")
    resumed = learner(MAKERS[make], 0.5, callbacks=[seen])
    resumed.fit(3, resume=state, override=True)
    assert resumed.steps == 9
    assert seen.values["lr"] == [0.5] * 4
    assert seen.values[PATHS[make]] == [0.9] * 4
    assert seen.values["weight_decay"] == [resumed.opt.defaults["weight_decay"]] * 4
    assert scheduler_keys(resumed.opt) == []


@BOTH_SGD
def test_resume_with_another_rate_and_no_schedule_uses_the_rate_set_here(make):
    state = state_after(6, make, [Schedule(Cosine)])
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)
    seen = Recorder("lr")
    learner(make, 0.25, callbacks=[seen]).fit(3, resume=state, override=True)
    assert seen.values["lr"] == [0.25] * 3


@BOTH_SGD
def test_fit_after_the_resumed_one_starts_from_the_rate_set_here(make):
    """The base of a new schedule is not the one that the checkpoint stores as `initial_lr`."""
    state = state_after(5, make, [Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.8))])
    seen, resumed = StepValues(), learner(make, 0.5)
    resumed.fit(2, resume=state, override=True)
    resumed._optimizer = resumed.opt  # the next fit shares the optimizer
    resumed._lr = None
    resumed.fit(1, callbacks=[Schedule({"lr": Cosine(3)}), seen])
    assert seen.values == [Cosine(3).value(0.5, step) for step in range(3)]


@pytest.mark.parametrize(
    "schedule",
    others_slow((*TORCH_SCHEDULERS, "ours"), "ours", "sequential"),
)
def test_schedule_added_at_a_resume_starts_at_the_current_step(schedule):
    current = Schedule(TORCH_SCHEDULERS.get(schedule, Cosine))
    state = state_after(4, torch.optim.SGD, [])
    assert step_values(current, 3, resume=state, override=True) == step_values(current, 3)[4:]


def test_plateau_added_at_a_resume_counts_the_epochs_before():
    plateau, seen = Plateau(factor=0.1, patience=0, threshold=0.5), StepValues()
    resumed = learner(torch.optim.SGD, 0.5, callbacks=[Schedule(plateau), seen])
    resumed.fit(4, resume=state_after(6, torch.optim.SGD, []), override=True)
    losses = [epoch["eval"]["loss"] for epoch in resumed.history]
    expected = [0.5 * plateau.factor_after(losses[:epochs]) for epochs in (2, 3)]
    assert seen.values == pytest.approx([value for value in expected for _ in range(3)], rel=1e-12)
    assert expected[0] < 0.5


def test_replaced_schedule_leaves_the_momentum_of_the_optimizer():
    """The schedule of the checkpoint changed rate and momentum; the one of this fit changes only the rate."""
    make = MAKERS["SGD"]
    state = state_after(4, make, [Schedule(SCHEDULES["1cycle"])])
    seen = Recorder("lr", "momentum")
    learner(make, 0.5, callbacks=[Schedule(Cosine), seen]).fit(3, resume=state, override=True)
    assert seen.values["momentum"] == [0.9] * 5
    assert seen.values["lr"] == [Cosine(9).value(0.5, step) for step in range(4, 9)]


@pytest.mark.parametrize("changed", ["weight_decay", "lr"])
def test_only_the_replaced_one_of_two_schedules_changes(changed):
    make = partial(torch.optim.SGD, weight_decay=0.1)
    both = {"lr": Cosine(12), "weight_decay": Cosine(12)}
    state = state_after(4, make, [Schedule({name: schedule}) for name, schedule in both.items()])
    both[changed] = Cosine(20)
    seen = Recorder("lr", "weight_decay")
    current = [Schedule({name: schedule}) for name, schedule in both.items()]
    learner(make, 0.5, callbacks=[*current, seen]).fit(3, resume=state, override=True)
    for name, base in (("lr", 0.5), ("weight_decay", 0.1)):
        assert seen.values[name] == [both[name].value(base, step) for step in range(4, 9)]


def in_groups(rate):
    """Return a factory of an optimizer whose biases have a rate of their own."""

    def make(params, lr):
        params = list(params)
        groups = [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim < 2], "lr": rate},
        ]
        return torch.optim.SGD(groups, lr=lr)

    return make


def test_changed_rate_of_a_group_is_rejected_or_used_with_override():
    state = state_after(4, in_groups(0.1), [])
    with pytest.raises(RunError, match=r"lr of the group of 0\.bias: saved 0\.1, current 0\.2; pass override=True"):
        learner(in_groups(0.2), 0.5).fit(3, resume=state)
    resumed = learner(in_groups(0.2), 0.5)
    resumed.fit(3, resume=state, override=True)
    assert [group["lr"] for group in resumed.opt.param_groups] == [0.5, 0.2]
    resumed = learner(in_groups(0.1), 0.5)
    resumed.fit(3, resume=state)
    assert [group["lr"] for group in resumed.opt.param_groups] == [0.5, 0.1]


def test_override_keeps_hyperparameters_that_a_callback_has_changed():
    class Halves(Callback):
        def after_step(self, learner):
            for group in learner.opt.param_groups:
                group["weight_decay"] /= 2

    make = partial(torch.optim.SGD, weight_decay=0.5)
    stop = StopAt(3)
    learner(make, 0.5, callbacks=[Halves(), Schedule(Cosine), stop]).fit(2)
    seen = Recorder("lr", "weight_decay")
    learner(make, 0.5, callbacks=[Halves(), seen]).fit(2, resume=stop.state, override=True)
    assert seen.values["weight_decay"] == [0.5 / 2**k for k in range(3, 6)]
    assert seen.values["lr"] == [0.5] * 3


def test_exact_resume_keeps_the_decayed_rate():
    """Without an override, the schedule continues where it was."""
    state = state_after(4, MAKERS["AdamW"], [Schedule(SCHEDULES["1cycle"])])
    seen = Recorder("lr", "betas[0]")
    learner(MAKERS["AdamW"], 0.5, callbacks=[Schedule(SCHEDULES["1cycle"]), seen]).fit(2, resume=state)
    whole = Recorder("lr", "betas[0]")
    learner(MAKERS["AdamW"], 0.5, callbacks=[Schedule(SCHEDULES["1cycle"]), whole]).fit(2)
    for name in ("lr", "betas[0]"):
        assert seen.values[name] == whole.values[name][4:]
