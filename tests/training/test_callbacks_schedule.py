"""Schedules of a fit: supported kinds, when they advance, plateaus, 1cycle and invalid arguments."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from learner_support import learner
from schedule_support import BOTH_SGD, TORCH_SCHEDULERS, step_values
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.schedules import Constant, Cosine, Exponential, OneCycle, OneCycleMomentum, Plateau, StepDecay
from dashpot.training import Callback, CancelBatch
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.schedule import Schedule, one_cycle

# ---- kinds of schedules ---------------------------------------------------------------------------------------------


@BOTH_SGD
def test_dashpot_schedule_sets_lr(make):
    assert step_values(Schedule(Cosine(9)), make=make) == [Cosine(9).value(0.5, step) for step in range(9)]


@BOTH_SGD
def test_function_of_the_number_of_steps(make):
    assert step_values(Schedule(Cosine), make=make) == [Cosine(9).value(0.5, step) for step in range(9)]
    assert step_values(Schedule(lambda n: {"lr": Cosine(n)}), epochs=2) == [
        Cosine(6).value(0.5, step) for step in range(6)
    ]


def test_mapping_sets_any_hyperparameter():
    schedule = Schedule(
        {"betas[1]": Exponential(0.9), "weight_decay": StepDecay(factor=0.5, every=2), "momentum": Constant(0.5)}
    )
    read = lambda group: group["betas"][0] + 10 * group["betas"][1] + 1000 * group["weight_decay"]  # noqa: E731
    make = partial(torch.optim.AdamW, betas=(0.8, 0.9), weight_decay=0.4)
    expected = [0.4 + 9 * 0.9**step + 400 * 0.5 ** (step // 2) for step in range(6)]
    assert step_values(schedule, 2, make, read) == pytest.approx(expected, rel=1e-14)


def test_scheduled_lr_is_used_by_the_step():
    """Only the first step changes the weights, because the learning rate of all later steps is 0."""
    once, thrice = learner(torch.optim.SGD, 0.5), learner(torch.optim.SGD, 0.5)
    off = Schedule(lambda n: Exponential(1e-300))
    for subject, epochs in ((once, 1), (thrice, 3)):
        torch.manual_seed(5)
        subject.fit(epochs, callbacks=[off])
    for a, b in zip(once.model.parameters(), thrice.model.parameters(), strict=True):
        assert torch.equal(a, b)


def plain_loop_lrs(make, total):
    """Return the learning rates of a torch scheduler in a plain training loop."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    opt = torch.optim.SGD([p], lr=0.5, momentum=0.9)
    if isinstance(make, partial) and make.func is lr_scheduler.OneCycleLR:
        scheduler = make(opt, total_steps=total)
    else:
        scheduler = (
            make(opt, total) if getattr(make, "__code__", None) and make.__code__.co_argcount == 2 else make(opt)
        )
    values = []
    for _ in range(total):
        values.append(float(opt.param_groups[0]["lr"]))
        opt.step()
        if len(values) < total:  # OneCycleLR rejects an additional step
            scheduler.step()
    return values


@pytest.mark.diagonal
@BOTH_SGD
@pytest.mark.parametrize("name", sorted(TORCH_SCHEDULERS))
def test_torch_scheduler_matches_plain_loop_without_warning(name, make):
    made = step_values(Schedule(TORCH_SCHEDULERS[name]), make=partial(make, momentum=0.9))
    assert made == plain_loop_lrs(TORCH_SCHEDULERS[name], 9)


def test_given_total_steps_are_kept():
    short = step_values(Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=12)), make=torch.optim.AdamW)
    long = step_values(Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.5)), epochs=4, make=torch.optim.AdamW)
    assert short == long[:9]


# ---- advancing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Exponential(0.5), partial(lr_scheduler.ExponentialLR, gamma=0.5)], ids=str)
def test_per_epoch_schedule_advances_after_the_evaluation(schedule):
    seen = []

    class Look(Callback):
        order = 45

        def after_epoch(self, learner):
            seen.append((learner.loop.phase, learner.opt.param_groups[0]["lr"]))

    assert step_values(Schedule(schedule, per="epoch"), others=[Look()]) == [0.5] * 3 + [0.25] * 3 + [0.125] * 3
    assert seen[:4] == [("train", 0.5), ("eval", 0.5), ("train", 0.25), ("eval", 0.25)]
    assert step_values(Schedule(schedule, per="epoch"), epochs=2, evaluate=False) == [0.5] * 3 + [0.25] * 3


def test_per_epoch_factory_gets_the_number_of_epochs():
    assert step_values(Schedule(Cosine, per="epoch"))[::3] == [Cosine(3).value(0.5, epoch) for epoch in range(3)]


def test_factory_gets_the_number_of_accumulated_steps():
    made = step_values(Schedule(Cosine), others=[Accumulate(2)])
    assert made == [Cosine(6).value(0.5, step) for step in range(6)]


class SkipSteps(Callback):
    """Skip the step of the second batch in every epoch."""

    order = 5

    def step(self, learner, proceed):
        if learner.batch.index != 1:
            proceed()


class CancelSecondBatch(Callback):
    def after_loss(self, learner):
        if learner.training and learner.batch.index == 1:
            raise CancelBatch


@pytest.mark.parametrize("skip", [SkipSteps, CancelSecondBatch])
@pytest.mark.parametrize("schedule", [Exponential(0.5), partial(lr_scheduler.ExponentialLR, gamma=0.5)], ids=str)
def test_skipped_step_does_not_advance_the_schedule(schedule, skip):
    assert step_values(Schedule(schedule), others=[skip()]) == [0.5 * 0.5**step for step in range(6)]


def test_epoch_without_steps_does_not_warn():
    class Never(Callback):
        def step(self, learner, proceed):
            pass

    assert step_values(Schedule(TORCH_SCHEDULERS["exponential"], per="epoch"), others=[Never()]) == []


def test_evaluation_only_fit_does_not_advance_the_schedule():
    subject = learner(torch.optim.SGD, callbacks=[look := EpochLRs(Schedule(Exponential(0.5), per="epoch"))])
    subject.fit(2, train=False)
    assert look.rates == [0.01, 0.01]


class EpochLRs(Callback):
    """Record the learning rate of a wrapped schedule at the end of every epoch."""

    order = 55

    def __init__(self, inner):
        self.inner, self.rates = inner, []

    def before_fit(self, learner):
        self.inner.before_fit(learner)

    def after_epoch(self, learner):
        self.inner.after_epoch(learner)
        self.rates.append(learner.opt.param_groups[0]["lr"])


# ---- plateaus -------------------------------------------------------------------------------------------------------


class SetMetric(Callback):
    """Replace a metric in the history."""

    order = 30

    def __init__(self, losses, phase="eval", name="loss"):
        self.losses, self.phase, self.name = losses, phase, name

    def after_epoch(self, learner):
        if learner.loop.phase == self.phase:
            learner.history[learner.epoch][self.phase][self.name] = self.losses[learner.epoch]


LOSSES = [1.0, 0.9, 0.9, 0.9, 0.9, math.nan, 0.1]


@pytest.mark.parametrize(
    "plateau",
    [
        Plateau(factor=0.5, patience=1),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=1),
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=1),
    ],
    ids=["ours", "torch", "partial"],
)
@pytest.mark.parametrize("phase", ["eval", "train"])
def test_plateau_reduces_lr_by_the_loss(plateau, phase):
    made = step_values(Schedule(plateau), 7, evaluate=phase == "eval", others=[SetMetric(LOSSES, phase)])
    assert made[::3] == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert made[1::3] == made[::3]


def test_plateau_of_a_metric():
    rising = SetMetric([0.5] * 4, name="accuracy")
    plateau = lambda opt: lr_scheduler.ReduceLROnPlateau(opt, mode="max", factor=0.5, patience=0)  # noqa: E731
    made = step_values(Schedule(plateau, metric="accuracy"), 4, others=[rising])
    assert made[::3] == [0.5, 0.5, 0.25, 0.125]
    with pytest.raises(ArgumentError, match="Unknown metric 'acuracy': did you mean 'accuracy'"):
        step_values(Schedule(Plateau(), metric="acuracy"))


# ---- 1cycle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "momentum"),
    [
        pytest.param(torch.optim.AdamW, lambda group: group["betas"][0], marks=pytest.mark.slow),
        (partial(torch.optim.SGD, momentum=0.9), lambda group: group["momentum"]),
        (dp.AdamW, lambda group: group["betas"][0]),
        pytest.param(partial(dp.SGD, momentum=0.9), lambda group: group["momentum"], marks=pytest.mark.slow),
    ],
    ids=["torch.AdamW", "torch.SGD", "AdamW", "SGD"],
)
def test_one_cycle_schedules_lr_and_momentum(make, momentum):
    """The schedule equals torch's OneCycleLR, which row G of the published table uses, up to rounding."""
    assert step_values(one_cycle(0.05), make=make) == [OneCycle(9).value(0.05, step) for step in range(9)]
    assert step_values(one_cycle(0.05), make=make, read=momentum) == OneCycleMomentum(9).table(9)
    torchs = Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.05))
    assert step_values(one_cycle(0.05), make=make) == pytest.approx(step_values(torchs, make=make), rel=1e-12)
    assert step_values(one_cycle(0.05), make=make, read=momentum) == pytest.approx(
        step_values(torchs, make=make, read=momentum)
    )


def test_one_cycle_defaults_to_group_lr_and_works_without_momentum():
    expected = [OneCycle(9, pct_start=0.5, div=10).value(0.5, step) for step in range(9)]
    assert step_values(one_cycle(pct_start=0.5, div=10), make=torch.optim.Adagrad) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_lr": 0}, "one_cycle: max_lr must be None or a number in"),
        ({"max_lr": "0.1"}, "one_cycle: max_lr must be None or a number in"),
        ({"pct_start": 2}, "OneCycle: pct_start must be a number in"),
        ({"low": 1.0}, "OneCycleMomentum: low must be a number in"),
        ({"peak": 1}, "one_cycle: unknown argument 'peak'"),
    ],
)
def test_one_cycle_rejects_invalid_arguments(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        one_cycle(**options)


# ---- invalid arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, 3, "cosine", torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)])
def test_unsupported_schedule_is_rejected(bad):
    with pytest.raises(ArgumentError, match="schedule must be a dashpot Schedule"):
        Schedule(bad)


def test_existing_scheduler_is_rejected():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ArgumentError, match="schedule must be a dashpot Schedule"):
        Schedule(lr_scheduler.ExponentialLR(opt, 0.5))
    with pytest.raises(ArgumentError, match="must return a scheduler of the optimizer that is passed to it"):
        step_values(Schedule(lambda _: lr_scheduler.ExponentialLR(opt, 0.5)))


@pytest.mark.parametrize("options", [{"per": "step"}, {"per": None}, {"metric": 3}])
def test_invalid_per_and_metric_are_rejected(options):
    with pytest.raises(ArgumentError, match=r"Schedule: (per|metric) must be"):
        Schedule(Cosine(3), **options)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        (lambda n: n, "the function must return a schedule or a torch scheduler, got 9"),
        (lambda n: {}, "the function must return a schedule or a torch scheduler, got {}"),
        ({"lr": 0.5}, "the function must return a schedule or a torch scheduler, got"),
        (lambda n: 1 / 0, "the function fails for the number of steps .* and for the optimizer"),
        ({"betas[0]": Cosine(9)}, "has no hyperparameter"),
        (lr_scheduler.StepLR, "requires step_size in addition to the optimizer"),
        (lambda a, b, c: None, "requires b, c in addition to the optimizer"),
    ],
)
def test_invalid_result_of_factory_is_rejected_in_before_fit(schedule, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        step_values(Schedule(schedule))


@pytest.mark.parametrize("schedule", [Cosine(9), Plateau(), one_cycle(0.1).schedule])
def test_lr_scheduled_by_the_optimizer_is_rejected(schedule):
    with pytest.raises(ArgumentError, match="lr is already scheduled by the optimizer"):
        step_values(Schedule(schedule), make=lambda params, lr: dp.SGD(params, lr=lr, schedule=Cosine(9)))
