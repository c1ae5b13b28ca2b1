"""Order of events and actions, and callbacks that wrap actions."""

from __future__ import annotations

import re

import pytest
import torch
from event_support import END, EVAL, TRAIN, EventLog, events_of
from learner_support import At, KeepGradients, learner, problem, raise_if, same, weights
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem
from dashpot.training import Callback, Engine, Learner


def test_fit_notifies_events_in_documented_order():
    train, evaluate = ["before_epoch", *TRAIN, *TRAIN, *END], ["before_epoch", *EVAL, *END]
    assert events_of() == ["before_fit", *train, *evaluate, "after_fit", "cleanup_fit"]
    assert events_of(train=False) == ["before_fit", *evaluate, "after_fit", "cleanup_fit"]
    assert events_of(evaluate=False) == ["before_fit", *train, "after_fit", "cleanup_fit"]


def test_accumulated_microbatch_skips_step_events():
    class Accumulate2(Callback):
        order = -20

        def before_fit(self, learner):
            learner.loop.accumulate = 2

    microbatch = [name for name in TRAIN if name not in ("step", "after_step", "zero_grad")]
    assert events_of(Accumulate2())[1:-2] == ["before_epoch", *microbatch, *TRAIN, *END, "before_epoch", *EVAL, *END]


def test_phase_sets_module_mode_and_grad_mode():
    seen = []

    class RecordModes(Callback):
        def after_predict(self, learner):
            module = next(learner.model.children())
            seen.append(
                (learner.loop.phase, learner.training, module.training, torch.is_grad_enabled(), learner.batch.index)
            )

    learner(examples=8, callbacks=[RecordModes()]).fit(1)
    assert seen == [("train", True, True, True, 0), ("train", True, True, True, 1), ("eval", False, False, False, 0)]


# ---- order of callbacks ---------------------------------------------------------------------------------------------


def test_callbacks_run_by_order_then_list_position():
    log = []
    callbacks = []
    for name, order in (("c", 5), ("a", 0), ("b", 0), ("z", -1)):
        callback = EventLog(log, name + ":")
        callback.order = order
        callbacks.append(callback)
    learner(callbacks=callbacks[:2]).fit(1, callbacks=callbacks[2:])
    for event in ("before_fit", "after_loss", "step", "zero_grad", "cleanup_epoch"):
        assert [entry for entry in log if entry.endswith(":" + event)][:4] == [f"{n}:{event}" for n in "zabc"]


def test_actions_are_nested_first_callback_outermost():
    log = []

    class Around(Callback):
        def __init__(self, name, order):
            self.name, self.order = name, order

        def step(self, learner, proceed):
            log.append(f"{self.name} before {learner.batch.stepped}")
            proceed()
            log.append(f"{self.name} after {learner.batch.stepped}")

    learner(examples=4, callbacks=[Around("inner", 2), Around("outer", 1)]).fit(1)
    assert log == ["outer before False", "inner before False", "inner after True", "outer after True"]


def test_fit_callbacks_are_not_kept_for_later_fits():
    always, once = EventLog(), EventLog()
    subject = learner(callbacks=[always])
    subject.fit(1, callbacks=[once])
    count = len(once.events)
    subject.fit(1)
    assert len(once.events) == count
    assert len(always.events) == 2 * count
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, callbacks=[At("after_loss", raise_if(ZeroDivisionError, lambda _: True))])
    subject.fit(1)
    assert subject.steps == 3


# ---- optimizers -----------------------------------------------------------------------------------------------------


def test_optimizer_factory_is_called_for_every_fit():
    subject = learner(dp.AdamW)
    subject.fit(1)
    first = subject.opt
    subject.fit(1, lr=0.5)
    assert subject.opt is not first
    assert (first.param_groups[0]["lr"], subject.opt.param_groups[0]["lr"]) == (0.01, 0.5)
    assert subject.opt.steps_done() == 3


def test_optimizer_instance_is_shared_by_fits():
    made = problem()
    optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1, momentum=0.9)
    subject = Learner.of(made, optimizer, engine=Engine("cpu"))
    subject.fit(1)
    subject.fit(1)
    assert subject.opt is optimizer
    with pytest.raises(ArgumentError, match="lr must be None if optimizer is an instance"):
        subject.fit(1, lr=0.1)


# ---- actions --------------------------------------------------------------------------------------------------------


def fitted(make, callbacks=(), **options):
    """Fit a small smooth model in float64, without dropout or batch norm."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=draw, dtype=torch.float64)
    y = torch.randint(0, 2, (40,), generator=draw)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    made = Problem(model=model, train=Batches(x, y, 8), loss=nn.functional.cross_entropy)
    subject = Learner.of(made, make, lr=0.1, callbacks=callbacks, engine=Engine("cpu"))
    subject.fit(3, **options)
    return subject


def test_scaling_gradients_in_zero_grad_is_heavy_ball():
    """The tolerance allows for the rounding errors of 15 float64 steps with sums in a different order."""
    with_callback = weights(fitted(torch.optim.SGD, [KeepGradients()]))
    without = weights(fitted(torch.optim.SGD))
    expected = weights(fitted(lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.85)))
    assert not same(with_callback, without)
    for a, b in zip(with_callback, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_callback_can_replace_every_action():
    class ReplaceAll(Callback):
        def predict(self, learner, proceed):
            learner.batch.output = learner.model(learner.batch.x)

        def get_loss(self, learner, proceed):
            learner.batch.loss = nn.functional.cross_entropy(learner.batch.output, learner.batch.y)

        def backward(self, learner, proceed):
            learner.batch.loss.backward()

        def step(self, learner, proceed):
            learner.opt.step()
            learner.batch.stepped = True

        def zero_grad(self, learner, proceed):
            learner.opt.zero_grad()

    replaced, default = fitted(torch.optim.SGD, [ReplaceAll()]), fitted(torch.optim.SGD)
    assert same(weights(replaced), weights(default))
    assert replaced.history == default.history
    assert replaced.steps == default.steps == 15


def test_backward_uses_loss_changed_by_callback():
    class Half(Callback):
        def get_loss(self, learner, proceed):
            proceed()
            learner.batch.loss = learner.batch.loss * 0.5

    halved = fitted(torch.optim.SGD, [Half()])
    slower = fitted(lambda params, lr: torch.optim.SGD(params, lr=lr / 2))
    for a, b in zip(weights(halved), weights(slower), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_public_attributes_are_the_documented_ones():
    section = Learner.__doc__.partition("Attributes:")[2].partition("Raises:")[0]
    documented = set(re.findall(r"^        (\w+):", section, re.MULTILINE))
    subject = learner(examples=4)
    subject.fit(1)
    properties = {name for name, value in vars(Learner).items() if isinstance(value, property)}
    assert {name for name in vars(subject) if not name.startswith("_")} | properties == documented
    assert len(documented) <= 15
