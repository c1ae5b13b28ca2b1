"""dp.explain of torch's optimizers and schedulers."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.analysis import scale_batch
from dashpot.errors import ArgumentError


def optimizer(cls=torch.optim.SGD, **settings):
    return cls([torch.zeros(3, requires_grad=True)], **settings)


@pytest.mark.parametrize(
    ("name", "settings", "changed"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9}, "lr to 0.4 and momentum to 0.8"),
        ("RMSprop", {"lr": 0.01}, "lr to 0.0141, alpha to 0.98 and eps to 7.07e-9"),
        ("AdamW", {}, "lr to 0.00141, betas[0] to 0.8, betas[1] to 0.998, eps to 7.07e-9 and weight_decay to 0.0141"),
    ],
)
def test_batch_size_of_torch_optimizer_uses_names_of_torch(name, settings, changed):
    theirs = dp.explain(optimizer(getattr(torch.optim, name), **settings), batch_size=64, to_batch=128)
    assert theirs.parts[0].sentences[-1].endswith(f"rule sets {changed}.")
    ours = dp.explain(optimizer(getattr(dp, name), **settings), batch_size=64, to_batch=128)
    assert theirs.to_dict() == ours.to_dict()


def test_groups_of_torch_optimizer_are_explained_separately():
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "momentum": momentum} for momentum in (0.0, 0.9, 0.9)]
    found = dp.explain(torch.optim.SGD(groups, lr=0.1, maximize=True))
    assert [part.label for part in found.parts] == ["group 0", "groups 1-2"]
    assert "maximize=True negates gradients: the curvature is that of the negated objective." in found.notes


@pytest.mark.parametrize(
    ("create", "steps"),
    [
        (lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=40), 40),
        (lambda opt: lr_scheduler.CosineAnnealingLR(opt, 30), 60),
        (lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 30), 30),
        (lambda opt: lr_scheduler.StepLR(opt, 30), 1000),
    ],
)
def test_torch_scheduler_is_explained_until_its_end_or_for_a_period(create, steps):
    assert dp.explain(create(optimizer(lr=0.1))).quantities()[0].value == steps


@pytest.mark.parametrize("create", [lambda: lr_scheduler.ReduceLROnPlateau(optimizer(lr=0.1)), dp.schedules.Plateau])
def test_schedule_of_a_metric_raises(create):
    with pytest.raises(ArgumentError, match=r"^explain: a schedule must depend only on the step, got \w*Plateau\.$"):
        dp.explain(create())


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (lambda: optimizer(lr=0.1), "the optimizer SGD of torch; dashpot.explain with batch_size and to_batch"),
        (lambda: dp.SGD, r"SGD'>; SGD.recipe_for\(...\) is its recipe"),
    ],
)
def test_scale_batch_of_torch_optimizer_or_class_states_the_alternative(given, hint):
    with pytest.raises(ArgumentError, match=rf"^scale_batch: recipe_or_optimizer must be .*{hint}"):
        scale_batch(given(), 64, 128)
