"""Recorder: one value per step, equal to the value that the step uses."""

from __future__ import annotations

import io
import math
from functools import partial

import pytest
import torch
from learner_support import StopAt, learner
from slow_values import others_slow
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine, Exponential, OneCycle, OneCycleMomentum
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training import Callback, CancelBatch, CancelFit
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.recorder import Recorder
from dashpot.training.callbacks.schedule import Schedule, one_cycle


def recorded(*names, make=dp.AdamW, lr=0.5, callbacks=(), epochs=3, loss=False, **options):
    recorder = Recorder(*names, loss=loss)
    subject = learner(make, lr, callbacks=[*callbacks, recorder], **options)
    subject.fit(epochs)
    assert all(len(values) == subject.steps for values in recorder.values.values())
    return recorder.values


def table(schedule, steps=9, base=0.5):
    return [schedule.value(base, step) for step in range(steps)]


# ---- hyperparameters ------------------------------------------------------------------------------------------------


def test_lr_of_a_schedule_callback():
    assert recorded("lr", callbacks=[Schedule(Cosine)])["lr"] == table(Cosine(9))
    expected = table(Exponential(0.5))
    torchs = Schedule(partial(lr_scheduler.ExponentialLR, gamma=0.5))
    assert recorded("lr", callbacks=[torchs], make=torch.optim.SGD)["lr"] == expected


def test_hyperparameters_of_the_optimizers_own_schedule():
    made = recorded(
        "lr",
        "momentum",
        "betas[1]",
        make=lambda params, lr: dp.AdamW(
            params, lr=lr, schedule={"lr": OneCycle(9), "pole": OneCycleMomentum(9), "betas[1]": Exponential(0.9)}
        ),
    )
    assert made["lr"] == pytest.approx(table(OneCycle(9)), rel=1e-15)
    assert made["momentum"] == OneCycleMomentum(9).table(9)
    assert made["betas[1]"] == table(Exponential(0.9), base=0.999)


def test_one_cycle_momentum_in_betas_and_momentum():
    for make in (torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)):
        made = recorded("momentum", "lr", make=make, callbacks=[one_cycle()])
        assert made["momentum"] == OneCycleMomentum(9).table(9)
        assert made["lr"] == table(OneCycle(9))


def test_hyperparameters_of_parameter_groups():
    def make(params, lr):
        first, *rest = params
        return torch.optim.AdamW([{"params": [first], "lr": 0.25}, {"params": rest, "eps": 1e-4}], lr=lr)

    made = recorded("lr", "lr:0", "lr:1", "betas[1]:1", "weight_decay", "eps:1", make=make)
    assert {name: values[0] for name, values in made.items()} == {
        "lr": 0.25,
        "lr:0": 0.25,
        "lr:1": 0.5,
        "betas[1]:1": 0.999,
        "weight_decay": 0.01,
        "eps:1": 1e-4,
    }


def test_tensor_lr_is_cloned_before_it_changes():
    rate = torch.tensor(0.5, dtype=torch.float64)
    made = recorded("lr", make=lambda params, lr: torch.optim.SGD(params, lr=rate), callbacks=[Schedule(Cosine)])
    assert made["lr"] == table(Cosine(9))


def test_lr_changed_by_another_callback_before_the_step():
    class ChangeLR(Callback):
        def step(self, learner, proceed):
            learner.opt.param_groups[0]["lr"] = 0.125
            proceed()

    assert recorded("lr", make=torch.optim.SGD, callbacks=[ChangeLR()])["lr"] == [0.125] * 9


# ---- norms and losses -----------------------------------------------------------------------------------------------


def test_norms_and_losses_match_manual_values():
    norms, states, losses = [], [], []

    class ByHand(Callback):
        order = 1

        def step(self, learner, proceed):
            flat = torch.cat([p.grad.flatten() for p in learner.model.parameters()])
            norms.append(flat.norm().item())
            proceed()
            state = torch.cat([learner.opt.state[p]["exp_avg"].flatten() for p in learner.model.parameters()])
            states.append(state.norm().item())

        def after_loss(self, learner):
            if learner.training:
                losses.append(learner.batch.loss.item())

    made = recorded("grad_norm", "state:exp_avg", loss=True, callbacks=[ByHand()])
    assert made["grad_norm"] == pytest.approx(norms, rel=1e-6)  # the order of float32 sums differs
    assert made["state:exp_avg"] == pytest.approx(states, rel=1e-6)
    assert made["loss"] == losses
    assert len(losses) == 9


def test_loss_of_a_step_is_the_mean_over_its_examples():
    losses, sizes = [], []

    class ByHand(Callback):
        def after_loss(self, learner):
            if learner.training:
                losses.append(learner.batch.loss.item())
                sizes.append(learner.batch.size)

    made = recorded("lr", loss=True, callbacks=[ByHand(), Accumulate(3)], epochs=2, make=torch.optim.SGD)["loss"]
    for step, value in enumerate(made):
        window = slice(3 * step, 3 * step + 3)
        mean = sum(a * n for a, n in zip(losses[window], sizes[window], strict=True)) / sum(sizes[window])
        assert value == pytest.approx(mean, rel=1e-6)  # float32
    assert sizes == [4, 4, 2] * 2


@pytest.mark.parametrize("examples", [4 * SYNC_INTERVAL - 4, 4 * SYNC_INTERVAL, 4 * SYNC_INTERVAL + 4])
def test_buffered_values_are_complete(examples):
    made = recorded("grad_norm", loss=True, examples=examples, make=torch.optim.SGD, lr=0.01, epochs=2)
    assert len(made["loss"]) == len(made["grad_norm"]) == examples // 2
    assert all(math.isfinite(value) for value in made["grad_norm"])


def test_values_are_available_during_a_fit():
    seen = []

    class ReadValues(Callback):
        def after_step(self, learner):
            seen.append(len(recorder.values["loss"]))
            recorder.values["loss"].clear()  # `values` is a copy

    recorder = Recorder()
    learner(callbacks=[ReadValues(), recorder]).fit(1)
    assert seen == [1, 2, 3]
    assert Recorder("lr").values == {"loss": [], "lr": []}


# ---- number of values -----------------------------------------------------------------------------------------------


class Skip(Callback):
    order = 5

    def step(self, learner, proceed):
        if learner.batch.index != 1:
            proceed()


class CancelAt(Callback):
    def __init__(self, where, error):
        self.error = error
        setattr(self, where, self._raise)

    def _raise(self, learner):
        if learner.training and learner.batch.index == 1:
            raise self.error


@pytest.mark.parametrize(
    ("callback", "steps"),
    [
        (Skip(), 6),
        (CancelAt("after_loss", CancelBatch), 6),
        (CancelAt("after_backward", CancelBatch), 6),
        (CancelAt("after_step", CancelFit), 2),
        (Accumulate(2), 6),
    ],
    ids=["skipped", "cancelled before backward", "cancelled after backward", "fit cancelled", "accumulated"],
)
def test_number_of_values_equals_number_of_steps(callback, steps):
    made = recorded("lr", "grad_norm", "state:exp_avg", loss=True, callbacks=[callback])
    assert {len(values) for values in made.values()} == {steps}


def test_step_skipped_by_the_optimizer_has_no_value():
    class Spoil(Callback):
        def after_backward(self, learner):
            if learner.batch.index == 1:
                next(learner.model.parameters()).grad.fill_(math.nan)

    make = partial(dp.AdamW, nonfinite="skip")
    made = recorded("lr", "grad_norm", make=make, callbacks=[Spoil(), Schedule(Cosine)])
    assert made["lr"] == table(Cosine(9), steps=6)
    assert all(map(math.isfinite, made["grad_norm"]))


def test_new_fit_resets_the_values():
    recorder = Recorder("lr")
    subject = learner(callbacks=[recorder])
    subject.fit(2)
    subject.fit(1)
    assert len(recorder.values["lr"]) == 3


# ---- resuming and plotting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", others_slow([1, 3, 5], 5))
def test_resumed_fit_has_identical_values(at):
    def fitted(callbacks=(), **options):
        recorder = Recorder("lr", "grad_norm", "state:exp_avg")
        learner(callbacks=[recorder, Schedule(Cosine)]).fit(3, callbacks=callbacks, **options)
        return recorder

    torch.manual_seed(2)
    whole = fitted()
    torch.manual_seed(2)
    stop = StopAt(at)
    first = fitted([stop])
    assert all(len(values) == at for values in first.values.values())
    stream = io.BytesIO()
    torch.save(stop.state, stream)
    stream.seek(0)
    resumed = fitted(resume=torch.load(stream, weights_only=True))
    assert resumed.values == whole.values


def test_checkpoint_with_different_names_is_rejected():
    stop = StopAt(1)
    learner(callbacks=[Recorder("lr")]).fit(1, callbacks=[stop])
    with pytest.raises(RunError, match="names must be those of the checkpoint, loss, lr, got loss, grad_norm"):
        learner(callbacks=[Recorder("grad_norm")]).fit(1, resume=stop.state)


def test_plot_shows_every_name():
    recorder = Recorder("lr", "grad_norm")
    learner(callbacks=[recorder]).fit(1)
    figure = recorder.plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "lr", "grad_norm"]
    for axes in figure.axes:
        [line] = axes.lines
        assert line.get_ydata().tolist() == recorder.values[axes.get_ylabel()]
        assert line.get_xdata().tolist() == [1, 2, 3]
    assert recorder.plot("lr", ax=figure.axes[0]) is figure
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1]
    with pytest.raises(ArgumentError, match="a name must be one of 'loss', 'lr', 'grad_norm', got 'momentum'"):
        recorder.plot("momentum")
    with pytest.raises(ArgumentError, match="the recorder has no names"):
        Recorder(loss=False).plot()


# ---- invalid arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ((3,), "names must be strings such as 'lr', got 3"),
        (("",), "names must be strings such as 'lr', got ''"),
        (("lr", "lr"), "names must be distinct, got 'lr' twice"),
        (("loss",), "names must be distinct, got 'loss' twice"),
    ],
)
def test_invalid_names_are_rejected(names, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        Recorder(*names)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("momentun", "has no hyperparameter 'momentun'; it has lr"),
        ("lr:1", "'lr:1' requires parameter group 1; the optimizer has 1"),
        ("betas", r"'betas' must be a number in the parameter group, got \(0.9, 0.999\)"),
        ("maximize", "'maximize' must be a number in the parameter group, got False"),
        ("state:exp_average", "the optimizer has no state 'exp_average'; known are exp_avg, exp_avg_sq, step"),
    ],
)
def test_unknown_names_are_rejected_in_the_fit(name, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        recorded(name, make=torch.optim.AdamW)
