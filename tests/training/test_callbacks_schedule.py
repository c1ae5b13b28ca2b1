"""Schedules: what each step used, when they move on, resuming, a second fit."""

from __future__ import annotations

import io
import math
from functools import partial

import pytest
import torch
from learner_support import StopAt, learner, same, weights
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Constant, Cosine, Exponential, OneCycle, OneCycleMomentum, Plateau, StepDecay
from dashpot.training import Callback, CancelBatch
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.schedule import Schedule, one_cycle


class Used(Callback):
    """The values that each step used, read when it is about to be taken."""

    order = 45

    def __init__(self, read=lambda group: group["lr"]):
        self.read, self.values = read, []

    def step(self, learner, proceed):
        value = self.read(learner.opt.param_groups[0])
        proceed()
        if learner.batch.stepped:
            self.values.append(float(value))


def used(schedule, epochs=3, make=torch.optim.SGD, read=lambda group: group["lr"], lr=0.5, **options):
    """What the steps used, three of them an epoch."""
    seen = Used(read)
    learner(make, lr, callbacks=[schedule, seen, *options.pop("others", [])]).fit(epochs, **options)
    return seen.values


BOTH = pytest.mark.parametrize("make", [torch.optim.SGD, dp.SGD], ids=["torch", "dashpot"])


# ---- what may be given ----------------------------------------------------------------------------------------------


@BOTH
def test_a_schedule_of_ours_drives_lr(make):
    assert used(Schedule(Cosine(9)), make=make) == [Cosine(9).value(0.5, step) for step in range(9)]


@BOTH
def test_a_function_of_the_number_of_steps(make):
    assert used(Schedule(Cosine), make=make) == [Cosine(9).value(0.5, step) for step in range(9)]
    assert used(Schedule(lambda n: {"lr": Cosine(n)}), epochs=2) == [Cosine(6).value(0.5, step) for step in range(6)]


def test_a_mapping_drives_any_hyperparameter():
    schedule = Schedule(
        {"betas[1]": Exponential(0.9), "weight_decay": StepDecay(factor=0.5, every=2), "momentum": Constant(0.5)}
    )
    read = lambda group: group["betas"][0] + 10 * group["betas"][1] + 1000 * group["weight_decay"]  # noqa: E731
    make = partial(torch.optim.AdamW, betas=(0.8, 0.9), weight_decay=0.4)
    expected = [0.4 + 9 * 0.9**step + 400 * 0.5 ** (step // 2) for step in range(6)]
    assert used(schedule, 2, make, read) == pytest.approx(expected, rel=1e-14)


def test_the_schedule_moves_the_weights():
    """The rate 0 from the second step on: the weights stay where the first step has put them."""
    once, thrice = learner(torch.optim.SGD, 0.5), learner(torch.optim.SGD, 0.5)
    off = Schedule(lambda n: Exponential(1e-300))
    for subject, epochs in ((once, 1), (thrice, 3)):
        torch.manual_seed(5)
        subject.fit(epochs, callbacks=[off])
    for a, b in zip(once.model.parameters(), thrice.model.parameters(), strict=True):
        assert torch.equal(a, b)


TORCH = {
    "step": partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "multi": partial(lr_scheduler.MultiStepLR, milestones=[2, 4], gamma=0.5),
    "exponential": partial(lr_scheduler.ExponentialLR, gamma=0.9),
    "lambda": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 1 / (1 + step)),
    "multiplicative": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda step: 0.9),
    "linear": partial(lr_scheduler.LinearLR, total_iters=4),
    "constant": partial(lr_scheduler.ConstantLR, total_iters=2),
    "polynomial": lambda opt, total_steps: lr_scheduler.PolynomialLR(opt, total_steps, power=2.0),
    "cosine": lambda opt, n: lr_scheduler.CosineAnnealingLR(opt, n, eta_min=0.1),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=3, cycle_momentum=False),
    "onecycle": partial(lr_scheduler.OneCycleLR, max_lr=0.5),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, total_iters=3), lr_scheduler.ExponentialLR(opt, 0.8)], milestones=[3]
    ),
}


def expected_of_torch(make, total):
    """Torch's own scheduler in a loop of torch's own."""
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
        if len(values) < total:  # torch's 1cycle refuses one more
            scheduler.step()
    return values


@BOTH
@pytest.mark.parametrize("name", sorted(TORCH))
def test_torch_schedulers_run_as_in_a_loop_of_torchs_and_give_no_warning(name, make):
    made = used(Schedule(TORCH[name]), make=partial(make, momentum=0.9))
    assert made == expected_of_torch(TORCH[name], 9)


def test_a_number_of_steps_that_was_given_is_not_replaced():
    short = used(Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.5, total_steps=12)), make=torch.optim.AdamW)
    long = used(Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.5)), epochs=4, make=torch.optim.AdamW)
    assert short == long[:9]


# ---- when it moves on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [Exponential(0.5), partial(lr_scheduler.ExponentialLR, gamma=0.5)], ids=str)
def test_per_epoch_it_moves_on_after_the_evaluation(schedule):
    seen = []

    class Look(Callback):
        order = 45

        def after_epoch(self, learner):
            seen.append((learner.loop.phase, learner.opt.param_groups[0]["lr"]))

    assert used(Schedule(schedule, per="epoch"), others=[Look()]) == [0.5] * 3 + [0.25] * 3 + [0.125] * 3
    assert seen[:4] == [("train", 0.5), ("eval", 0.5), ("train", 0.25), ("eval", 0.25)]
    assert used(Schedule(schedule, per="epoch"), epochs=2, evaluate=False) == [0.5] * 3 + [0.25] * 3


def test_per_epoch_the_number_is_that_of_epochs():
    assert used(Schedule(Cosine, per="epoch"))[::3] == [Cosine(3).value(0.5, epoch) for epoch in range(3)]


def test_accumulation_decides_the_number_of_steps():
    made = used(Schedule(Cosine), others=[Accumulate(2)])
    assert made == [Cosine(6).value(0.5, step) for step in range(6)]


class SkipSteps(Callback):
    """Leaves out the step of the second batch of every epoch."""

    order = 5

    def step(self, learner, proceed):
        if learner.batch.index != 1:
            proceed()


class CancelSecond(Callback):
    def after_loss(self, learner):
        if learner.training and learner.batch.index == 1:
            raise CancelBatch


@pytest.mark.parametrize("skip", [SkipSteps, CancelSecond])
@pytest.mark.parametrize("schedule", [Exponential(0.5), partial(lr_scheduler.ExponentialLR, gamma=0.5)], ids=str)
def test_a_step_that_was_not_taken_does_not_move_it(schedule, skip):
    assert used(Schedule(schedule), others=[skip()]) == [0.5 * 0.5**step for step in range(6)]


def test_an_epoch_without_a_step_gives_no_warning_about_the_order_of_calls():
    class Never(Callback):
        def step(self, learner, proceed):
            pass

    assert used(Schedule(TORCH["exponential"], per="epoch"), others=[Never()]) == []


def test_evaluating_alone_does_not_move_it():
    subject = learner(torch.optim.SGD, callbacks=[look := Looks(Schedule(Exponential(0.5), per="epoch"))])
    subject.fit(2, train=False)
    assert look.rates == [0.01, 0.01]


class Looks(Callback):
    """A schedule with the rate at the end of every epoch."""

    order = 55

    def __init__(self, inner):
        self.inner, self.rates = inner, []

    def before_fit(self, learner):
        self.inner.before_fit(learner)

    def after_epoch(self, learner):
        self.inner.after_epoch(learner)
        self.rates.append(learner.opt.param_groups[0]["lr"])


# ---- plateaus -------------------------------------------------------------------------------------------------------


class Losses(Callback):
    """Puts losses into the history, in the place of those measured."""

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
def test_a_plateau_watches_the_loss(plateau, phase):
    made = used(Schedule(plateau), 7, evaluate=phase == "eval", others=[Losses(LOSSES, phase)])
    assert made[::3] == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]
    assert made[1::3] == made[::3]


def test_a_plateau_of_another_metric():
    rising = Losses([0.5] * 4, name="accuracy")
    plateau = lambda opt: lr_scheduler.ReduceLROnPlateau(opt, mode="max", factor=0.5, patience=0)  # noqa: E731
    made = used(Schedule(plateau, metric="accuracy"), 4, others=[rising])
    assert made[::3] == [0.5, 0.5, 0.25, 0.125]
    with pytest.raises(ArgumentError, match="Unknown metric 'acuracy': did you mean 'accuracy'"):
        used(Schedule(Plateau(), metric="acuracy"))


# ---- 1cycle ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "momentum"),
    [
        (torch.optim.AdamW, lambda group: group["betas"][0]),
        (partial(torch.optim.SGD, momentum=0.9), lambda group: group["momentum"]),
        (dp.AdamW, lambda group: group["betas"][0]),
        (partial(dp.SGD, momentum=0.9), lambda group: group["momentum"]),
    ],
    ids=["torch.AdamW", "torch.SGD", "AdamW", "SGD"],
)
def test_one_cycle_moves_rate_and_momentum(make, momentum):
    """As row G of the specification, which is torch's OneCycleLR: equal to it within rounding."""
    assert used(one_cycle(0.05), make=make) == [OneCycle(9).value(0.05, step) for step in range(9)]
    assert used(one_cycle(0.05), make=make, read=momentum) == OneCycleMomentum(9).table(9)
    torchs = Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.05))
    assert used(one_cycle(0.05), make=make) == pytest.approx(used(torchs, make=make), rel=1e-12)
    assert used(one_cycle(0.05), make=make, read=momentum) == pytest.approx(used(torchs, make=make, read=momentum))


def test_one_cycle_peaks_at_the_groups_own_rate_and_needs_no_momentum():
    expected = [OneCycle(9, pct_start=0.5, div=10).value(0.5, step) for step in range(9)]
    assert used(one_cycle(pct_start=0.5, div=10), make=torch.optim.Adagrad) == expected


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
def test_one_cycle_refuses_bad_arguments_at_once(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        one_cycle(**options)


# ---- a second fit ---------------------------------------------------------------------------------------------------


AGAIN = {**TORCH, "ours": Cosine, "plateau": Plateau(factor=0.1, patience=0), "1cycle": one_cycle(0.3).schedule}


@pytest.mark.parametrize("name", sorted(AGAIN))
@BOTH
def test_a_second_fit_begins_where_the_first_began(name, make):
    """With one optimizer for both: a rate that was moved is moved back, and what was remembered is forgotten."""
    subject = learner(make)
    optimizer = make(subject.model.parameters(), lr=0.5, momentum=0.9)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    subject.optimizer, subject.opt, subject.lr = optimizer, optimizer, None
    seen = []
    for _ in range(2):
        seen.append(Used())
        subject.fit(3, callbacks=[Schedule(AGAIN[name]), seen[-1]])
        left = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        for group in (*settings, *left):
            group.pop("steps_done", None)
        assert left == settings
        assert "step" not in vars(optimizer)
    assert seen[0].values == seen[1].values
    assert len(seen[0].values) == 9


def test_a_rate_that_is_a_tensor_is_written_in_place():
    rate = torch.tensor(0.5, dtype=torch.float64)
    seen = used(Schedule(Cosine), make=lambda params, lr: torch.optim.SGD(params, lr=rate))
    assert seen == [Cosine(9).value(0.5, step) for step in range(9)]
    assert rate.item() == 0.5


def test_hyperparameters_are_put_back_after_an_error_too():
    class Fails(Callback):
        def after_batch(self, learner):
            raise ZeroDivisionError

    subject = learner(torch.optim.SGD, callbacks=[Schedule(Exponential(0.5))])
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, callbacks=[Fails()])
    assert subject.opt.param_groups[0]["lr"] == 0.01


# ---- resuming -------------------------------------------------------------------------------------------------------


def through_a_file(state):
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=True)


RESUMED = {**AGAIN, "mapping": lambda n: {"lr": Cosine(n), "momentum": OneCycleMomentum(n)}}


@pytest.mark.parametrize("at", [1, pytest.param(4, marks=pytest.mark.slow), 6])
@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", sorted(RESUMED))
def test_it_goes_on_with_the_very_same_values(name, per, at):
    make = partial(dp.SGD if at == 4 else torch.optim.SGD, momentum=0.9)
    torch.manual_seed(1)
    values, subject = Used(), learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per)])
    subject.fit(3, callbacks=[values])
    torch.manual_seed(1)
    stop = StopAt(at)
    first = learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per)])
    first.fit(3, callbacks=[stop])
    again = Used()
    second = learner(make, 0.5, callbacks=[Schedule(RESUMED[name], per), again])
    stop.state["callbacks"]["Used"] = {}
    second.fit(3, resume=through_a_file(stop.state))
    assert again.values == values.values[at:]
    assert same(weights(subject), weights(second))


@pytest.mark.parametrize("name", ["ours", "exponential", "plateau"])
def test_a_state_taken_after_a_fit_goes_on_too(name):
    """The optimizer's own state then holds the rates of before; the schedule's holds those in force."""
    make = partial(Exponential, 0.9) if name == "ours" else None
    schedule = (lambda n: make()) if make else RESUMED[name]
    first = learner(torch.optim.SGD, 0.5, callbacks=[Schedule(schedule)])
    torch.manual_seed(1)
    first.fit(2)
    again = Used()
    second = learner(torch.optim.SGD, 0.5, callbacks=[Schedule(schedule), again])
    state = through_a_file(first.state_dict())
    state["callbacks"]["Used"] = {}
    second.fit(4, resume=state)
    torch.manual_seed(1)
    whole = used(Schedule(schedule), 4)
    assert again.values == whole[6:]


OTHERS = {
    "longer": (Cosine, Cosine),
    "torch": (TORCH["exponential"], partial(lr_scheduler.ExponentialLR, gamma=0.8)),
    "longer torch": (TORCH["onecycle"], TORCH["onecycle"]),
    "kind": (Cosine(20), TORCH["exponential"]),
    "plateau": (Plateau(factor=0.5, patience=0), Plateau(factor=0.1, patience=0)),
    "torch plateau": (
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=0, threshold=0.9),
        partial(lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0, threshold=0.9),
    ),
}


@pytest.mark.parametrize("per", ["batch", "epoch"])
@pytest.mark.parametrize("name", OTHERS)
def test_another_schedule_is_refused_or_goes_on_where_it_would_be(name, per):
    """torch's own loading takes the other schedule's settings over, without a word."""
    there, here = OTHERS[name]
    first = learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(there, per)])
    torch.manual_seed(1)
    first.fit(2)
    state = through_a_file(first.state_dict())
    with pytest.raises(RunError, match=r"schedules of the checkpoint and of this fit differ: .* saved .*, current "):
        learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(here, per)]).fit(3, resume=state)
    seen = Used()
    resumed = learner(partial(torch.optim.SGD, momentum=0.9), 0.5, callbacks=[Schedule(here, per)])
    resumed.fit(3, callbacks=[seen], resume=state, override=True)
    if "plateau" in name:  # the losses of the epochs before were those of the other schedule
        made = _factors(here, [epoch["eval"]["loss"] for epoch in first.history])
        assert seen.values == pytest.approx([0.5 * made] * 3, rel=1e-15)
    else:
        whole = used(Schedule(here, per), make=partial(torch.optim.SGD, momentum=0.9))
        assert seen.values == whole[6:]


def _factors(plateau, losses):
    p = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    if isinstance(plateau, Plateau):
        return plateau.factor_after(losses)
    scheduler = plateau(p)
    for loss in losses:
        scheduler.step(loss)
    return p.param_groups[0]["lr"]


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, 3, "cosine", torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)])
def test_what_is_no_schedule_is_refused_at_construction(bad):
    with pytest.raises(ArgumentError, match="schedule must be a dashpot Schedule"):
        Schedule(bad)


def test_a_scheduler_that_is_made_already_is_refused():
    opt = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ArgumentError, match="schedule must be a dashpot Schedule"):
        Schedule(lr_scheduler.ExponentialLR(opt, 0.5))
    with pytest.raises(ArgumentError, match="must return a scheduler of the optimizer that is passed to it"):
        used(Schedule(lambda _: lr_scheduler.ExponentialLR(opt, 0.5)))


@pytest.mark.parametrize("options", [{"per": "step"}, {"per": None}, {"metric": 3}])
def test_other_bad_arguments(options):
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
def test_what_comes_out_when_the_fit_begins(schedule, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        used(Schedule(schedule))


@pytest.mark.parametrize("schedule", [Cosine(9), Plateau(), one_cycle(0.1).schedule])
def test_a_rate_that_the_optimizer_schedules_itself_is_not_scheduled_twice(schedule):
    with pytest.raises(ArgumentError, match="lr is already scheduled by the optimizer"):
        used(Schedule(schedule), make=lambda params, lr: dp.SGD(params, lr=lr, schedule=Cosine(9)))
