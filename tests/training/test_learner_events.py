"""The order of events, cancellations, cleaning up, actions that pass through callbacks, and bad input."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
import torch
from learner_support import learner, problem, same, weights
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem
from dashpot.training import Callback, CancelBatch, CancelEpoch, CancelFit, Engine, Learner
from dashpot.training.callback import ACTIONS, EVENTS

BATCH = ["before_batch", "predict", "after_predict", "get_loss", "after_loss"]
TRAIN = [*BATCH, "backward", "after_backward", "step", "after_step", "zero_grad", "after_batch", "cleanup_batch"]
EVAL = [*BATCH, "after_batch", "cleanup_batch"]
END = ["after_epoch", "cleanup_epoch"]


class Tell(Callback):
    """Writes down everything it hears."""

    def __init__(self, heard=None, name=""):
        self.heard, self.name = [] if heard is None else heard, name


def _event(event):
    return lambda self, learner: self.heard.append(self.name + event)


def _action(action):
    def hear(self, learner, proceed):
        self.heard.append(self.name + action)
        proceed()

    return hear


for _name in EVENTS:
    setattr(Tell, _name, _event(_name))
for _name in ACTIONS:
    setattr(Tell, _name, _action(_name))


def heard(change=None, **options):
    """What a callback hears of one epoch of two batches, beside `change`, a callback that comes later."""
    tell = Tell()
    learner(examples=8, callbacks=[tell, *([] if change is None else [change])]).fit(1, **options)
    return tell.heard


def test_the_order_is_that_of_the_specification():
    train, evaluate = ["before_epoch", *TRAIN, *TRAIN, *END], ["before_epoch", *EVAL, *END]
    assert heard() == ["before_fit", *train, *evaluate, "after_fit", "cleanup_fit"]
    assert heard(train=False) == ["before_fit", *evaluate, "after_fit", "cleanup_fit"]
    assert heard(evaluate=False) == ["before_fit", *train, "after_fit", "cleanup_fit"]


def test_a_batch_that_only_adds_to_the_gradient_takes_no_step():
    class Two(Callback):
        order = -20

        def before_fit(self, learner):
            learner.loop.accumulate = 2

    adding = [name for name in TRAIN if name not in ("step", "after_step", "zero_grad")]
    assert heard(Two())[1:-2] == ["before_epoch", *adding, *TRAIN, *END, "before_epoch", *EVAL, *END]


def test_phases_and_modes():
    seen = []

    class Look(Callback):
        def after_predict(self, learner):
            module = next(learner.model.children())
            seen.append(
                (learner.loop.phase, learner.training, module.training, torch.is_grad_enabled(), learner.batch.index)
            )

    learner(examples=8, callbacks=[Look()]).fit(1)
    assert seen == [("train", True, True, True, 0), ("train", True, True, True, 1), ("eval", False, False, False, 0)]


# ---- the order of callbacks -----------------------------------------------------------------------------------------


def test_callbacks_take_turns_by_order_and_ties_by_place():
    log = []
    callbacks = []
    for name, order in (("c", 5), ("a", 0), ("b", 0), ("z", -1)):
        callback = Tell(log, name + ":")
        callback.order = order
        callbacks.append(callback)
    learner(callbacks=callbacks[:2]).fit(1, callbacks=callbacks[2:])
    for event in ("before_fit", "after_loss", "step", "zero_grad", "cleanup_epoch"):
        assert [entry for entry in log if entry.endswith(":" + event)][:4] == [f"{n}:{event}" for n in "zabc"]


def test_actions_are_nested_the_first_outermost():
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


# ---- cancelling -----------------------------------------------------------------------------------------------------


class Raise(Callback):
    """Raises at an event or action of training, once."""

    def __init__(self, where, error, order=100):
        self.error, self.order, self.done = error, order, False
        setattr(self, where, self._act if where in ACTIONS else self._hear)

    def _hear(self, learner):
        self._raise(learner)

    def _act(self, learner, proceed):
        self._raise(learner)
        proceed()

    def _raise(self, learner):
        if not self.done:
            self.done = True
            raise self.error


@pytest.mark.parametrize("where", [*TRAIN[:-2]])
def test_cancelling_a_batch_skips_to_its_end(where):
    reached = TRAIN[: TRAIN.index(where) + 1]
    expected = [*reached, "cleanup_batch", *TRAIN, *END]
    assert heard(Raise(where, CancelBatch))[2:] == [*expected, "before_epoch", *EVAL, *END, "after_fit", "cleanup_fit"]


@pytest.mark.parametrize("where", ["before_epoch", "before_batch", "backward", "after_step", "after_batch"])
def test_cancelling_an_epoch_skips_the_rest_of_the_phase(where):
    inside = [] if where == "before_epoch" else [*TRAIN[: TRAIN.index(where) + 1], "cleanup_batch"]
    rest = ["before_epoch", *EVAL, *END, "after_fit", "cleanup_fit"]
    assert heard(Raise(where, CancelEpoch)) == ["before_fit", "before_epoch", *inside, "cleanup_epoch", *rest]


@pytest.mark.parametrize("where", ["before_fit", "before_epoch", "after_loss", "step", "after_epoch", "after_fit"])
def test_cancelling_the_fit_ends_it(where):
    whole = heard()
    told = whole[: whole.index(where) + 1]
    if where in TRAIN:
        told += ["cleanup_batch"]
    if where not in ("before_fit", "after_fit"):
        told += ["cleanup_epoch"]
    assert heard(Raise(where, CancelFit)) == [*told, "cleanup_fit"]


def test_a_cancelled_batch_counts_neither_in_the_means_nor_as_a_step():
    class Second(Callback):
        def after_loss(self, learner):
            if learner.training and learner.batch.index == 1:
                raise CancelBatch

    subject = learner(callbacks=[Second()])
    subject.fit(1)
    assert (subject.steps, subject.loop.means.count) == (2, 10)
    assert len(subject.history) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("where", ["after_backward", "step"])
def test_gradients_of_a_cancelled_step_do_not_get_into_the_next(where, accumulate):
    """Else the next step would use the sum of both, silently."""
    norms = {}

    class Norms(Callback):
        order = -20

        def __init__(self, cancelled):
            self.cancelled, self.norms = cancelled, []

        def before_fit(self, learner):
            learner.loop.accumulate = accumulate

        def after_backward(self, learner):
            if learner.batch.is_last_microbatch:
                self.norms.append([p.grad.norm().item() for p in learner.model.parameters()])
                if where == "after_backward":
                    self._cancel(learner)

        def step(self, learner, proceed):
            if where == "step":
                self._cancel(learner)

        def _cancel(self, learner):
            if self.cancelled and learner.batch.index == accumulate - 1:
                raise CancelBatch

    for cancelled in (False, True):
        callback = Norms(cancelled)
        torch.manual_seed(3)
        learner(callbacks=[callback], examples=16).fit(1, evaluate=False)
        norms[cancelled] = callback.norms
    assert norms[True] == norms[False]
    assert len(norms[True]) == 4 // accumulate


# ---- cleaning up ----------------------------------------------------------------------------------------------------


class Cleans(Callback):
    """Counts its cleanups, and may fail in one or everywhere before."""

    def __init__(self, fail=(), order=0):
        self.fail, self.order, self.cleaned = fail, order, []

    def before_fit(self, learner):
        self._at("before_fit")

    def after_loss(self, learner):
        self._at("after_loss")

    def cleanup_batch(self, learner):
        self.cleaned.append("batch")
        self._at("cleanup_batch")

    def cleanup_epoch(self, learner):
        self.cleaned.append("epoch")

    def cleanup_fit(self, learner):
        self.cleaned.append("fit")
        self._at("cleanup_fit")

    def _at(self, event):
        if event in self.fail:
            raise ZeroDivisionError(f"{event} of {self.order}")


@pytest.mark.parametrize(
    ("where", "cleaned"), [("before_fit", ["fit"]), ("after_loss", ["batch", "epoch", "fit"])], ids=str
)
def test_cleaning_up_is_never_left_out(where, cleaned):
    faulty, other = Cleans([where], order=1), Cleans(order=2)
    with pytest.raises(ZeroDivisionError, match=f"{where} of 1"):
        learner(callbacks=[faulty, other]).fit(1)
    assert faulty.cleaned == other.cleaned == cleaned


def test_a_cleanup_that_fails_does_not_keep_the_others_from_theirs():
    faulty, other = Cleans(["cleanup_batch", "cleanup_fit"], order=1), Cleans(order=2)
    with pytest.raises(ZeroDivisionError, match="cleanup_fit of 1") as caught:
        learner(callbacks=[faulty, other]).fit(1)
    assert "cleanup_batch of 1" in str(caught.value.__context__)
    assert other.cleaned == ["batch", "epoch", "fit"]


def test_callbacks_of_one_fit_take_part_in_that_one_only():
    always, once = Tell(), Tell()
    subject = learner(callbacks=[always])
    subject.fit(1, callbacks=[once])
    told = len(once.heard)
    subject.fit(1)
    assert len(once.heard) == told
    assert len(always.heard) == 2 * told
    with pytest.raises(ZeroDivisionError):
        subject.fit(1, callbacks=[Cleans(["after_loss"])])
    subject.fit(1)
    assert subject.steps == 3


# ---- optimizers -----------------------------------------------------------------------------------------------------


def test_what_makes_an_optimizer_makes_a_fresh_one_for_every_fit():
    subject = learner(dp.AdamW)
    subject.fit(1)
    first = subject.opt
    subject.fit(1, lr=0.5)
    assert subject.opt is not first
    assert (first.param_groups[0]["lr"], subject.opt.param_groups[0]["lr"]) == (0.01, 0.5)
    assert subject.opt.steps_done() == 3


def test_an_instance_serves_every_fit():
    made = problem()
    optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1, momentum=0.9)
    subject = Learner.of(made, optimizer, engine=Engine("cpu"))
    subject.fit(1)
    subject.fit(1)
    assert subject.opt is optimizer
    with pytest.raises(ArgumentError, match="lr must be None if optimizer is an instance"):
        subject.fit(1, lr=0.1)


# ---- actions --------------------------------------------------------------------------------------------------------


def plain(make, callbacks=(), **options):
    """Training of a small smooth model in float64, no dropout, no batch norm."""
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


class Momentum(Callback):
    """g_eff = g + 0.85 g_eff of the step before."""

    def zero_grad(self, learner, proceed):
        for p in learner.model.parameters():
            p.grad *= 0.85


def test_a_callback_that_keeps_gradients_is_heavy_ball():
    """The one whose original never ran. To rounding: 15 steps in float64, the sums taken in another order."""
    with_callback = weights(plain(torch.optim.SGD, [Momentum()]))
    without = weights(plain(torch.optim.SGD))
    expected = weights(plain(lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.85)))
    assert not same(with_callback, without)
    for a, b in zip(with_callback, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_callbacks_may_do_an_action_in_the_learners_place():
    class Own(Callback):
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

    own, usual = plain(torch.optim.SGD, [Own()]), plain(torch.optim.SGD)
    assert same(weights(own), weights(usual))
    assert own.history == usual.history
    assert own.steps == usual.steps == 15


def test_a_changed_loss_is_what_goes_backward():
    class Half(Callback):
        def get_loss(self, learner, proceed):
            proceed()
            learner.batch.loss = learner.batch.loss * 0.5

    halved = plain(torch.optim.SGD, [Half()])
    slower = plain(lambda params, lr: torch.optim.SGD(params, lr=lr / 2))
    for a, b in zip(weights(halved), weights(slower), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_misnamed_event_is_refused_with_the_right_name():
    with pytest.raises(ArgumentError, match="'after_bacth' is not an event: did you mean 'after_batch'"):
        type("Typo", (Callback,), {"after_bacth": lambda self, learner: None})


@pytest.mark.parametrize("bad", [Callback, print, None, "Recorder"], ids=repr)
def test_only_callbacks_are_callbacks(bad):
    with pytest.raises(ArgumentError, match="callbacks must be instances of"):
        learner(callbacks=[bad])
    with pytest.raises(ArgumentError, match="callbacks must be instances of"):
        learner().fit(1, callbacks=[bad])


def made(model=None, train=None, optimizer=torch.optim.SGD, loss=nn.functional.cross_entropy, **options):
    given = problem()
    train = given.train if train is None else train
    return Learner(model or given.model, train, loss=loss, optimizer=optimizer, lr=0.1, engine=Engine("cpu"), **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": print}, "model must be a torch.nn.Module"),
        ({"optimizer": 0.1}, "optimizer must be a torch optimizer or a factory, got 0.1"),
        ({"train": 3}, "train must be dashpot.data.Batches, a DataLoader or another sized iterable"),
        ({"train": []}, "train must contain at least one batch, got an empty list"),
        ({"evaluation": []}, "evaluation must contain at least one batch, got an empty list"),
        ({"train": torch.utils.data.DataLoader([])}, "train must contain at least one batch, got an empty DataLoader"),
        ({"evaluation": (pair for pair in [])}, "evaluation must be dashpot.data.Batches"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_are_refused_at_construction(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        made(**options)


def fails(error=ArgumentError, epochs=1, **options):
    with pytest.raises(error) as caught:
        made(**options).fit(epochs)
    return str(caught.value)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3", None, True, math.inf])
def test_a_bad_number_of_epochs(epochs):
    assert "epochs must be an integer in [1, inf)" in fails(epochs=epochs)


def test_a_function_that_makes_no_optimizer():
    assert "optimizer must return a torch.optim.Optimizer, got 7" in fails(optimizer=lambda params, lr: 7)


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda output, y: nn.functional.cross_entropy(output, y, reduction="none"), "got shape (4,)"),
        (lambda output, y: 0.5, "got 0.5"),
        (lambda output, y: None, "got None"),
    ],
)
def test_a_loss_that_is_no_scalar(loss, got):
    assert "the loss of a batch must be a tensor with one element, " + got in fails(loss=loss)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range(label):
    x, y = torch.randn(4, 4), torch.tensor([0, 1, label, 2])
    sentence = fails(train=Batches(x, y, 4))
    assert sentence == (f"Learner: labels must be integers in [0, 2] for a model with 3 classes, got {label}.")


def test_a_batch_on_another_device():
    x, y = torch.randn(4, 4, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    assert fails(train=Batches(x, y, 4)) == "Learner: train must yield tensors on the CPU or on cpu, got meta."


@pytest.mark.parametrize("item", [torch.zeros(2, 4), (torch.zeros(2, 4),), {"x": 1}], ids=["tensor", "one", "mapping"])
def test_a_batch_that_is_no_pair(item):
    assert "train must yield pairs (x, y), got" in fails(train=[item])


def test_a_state_is_not_to_be_had_while_gradients_wait():
    class Ask(Callback):
        order = -20

        def before_fit(self, learner):
            learner.loop.accumulate = 2

        def after_batch(self, learner):
            if learner.training:
                learner.state_dict()

    with pytest.raises(RunError, match="got 1 accumulated micro-batches"):
        learner(callbacks=[Ask()]).fit(1)
    with pytest.raises(RunError, match="accumulated micro-batches"):
        learner(
            callbacks=[type("Early", (Callback,), {"after_step": lambda self, learner: learner.state_dict()})()]
        ).fit(1)


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (CancelBatch, [None, None, None]),
        (CancelEpoch, [CancelEpoch, None, None]),
        (CancelFit, [CancelFit, CancelFit, None]),
        (KeyboardInterrupt, [KeyboardInterrupt] * 3),
    ],
)
def test_callbacks_know_in_a_cleanup_what_goes_on_from_there(error, seen):
    """An error, or a cancellation of more than what is cleaned up; also where the fit begins while one is handled."""
    noted = []

    class Notes(Callback):
        def after_loss(self, learner):
            raise error

        def cleanup_batch(self, learner):
            noted.append(learner.loop.unwinding)

        cleanup_epoch = cleanup_fit = cleanup_batch

    try:
        int("no number")
    except ValueError:
        with suppress(KeyboardInterrupt):
            learner(examples=4).fit(1, callbacks=[Notes()], evaluate=False)
    assert noted == seen
