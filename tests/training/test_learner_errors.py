"""Error messages of the learner for invalid arguments, callbacks, losses and data."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from learner_support import X, Y, learner, linear_learner, pairs, problem
from torch import nn

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks.running_means import RunningMeans
from dashpot.training import EMA, Callback, Engine, Learner, Recorder, find_lr
from dashpot.training.losses import scalar_loss


def make_learner(model=None, train=None, optimizer=torch.optim.SGD, loss=nn.functional.cross_entropy, **options):
    given = problem()
    train = given.train if train is None else train
    return Learner(model or given.model, train, loss=loss, optimizer=optimizer, lr=0.1, engine=Engine("cpu"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": print}, "model must be a torch.nn.Module"),
        ({"optimizer": 0.1}, "optimizer must be a torch optimizer or a factory, got 0.1"),
        ({"train": 3}, "train must be dashpot.data.Batches, a DataLoader or another iterable"),
        ({"train": []}, "train must contain at least one batch, got an empty list"),
        ({"evaluation": []}, "evaluation must contain at least one batch, got an empty list"),
        ({"train": torch.utils.data.DataLoader([])}, "train must contain at least one batch, got an empty DataLoader"),
        ({"evaluation": (pair for pair in [])}, "evaluation must be dashpot.data.Batches"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_constructor_arguments_raise(options, message):
    with pytest.raises(ArgumentError, match=message):
        make_learner(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": Recorder("lr")}, "callbacks must be a list of callbacks, got <.*Recorder"),
        ({"metrics": [len]}, "metrics must be a mapping of names to functions .* or metric objects, got list"),
        ({"metrics": {1: len}}, "metrics must be a mapping of names"),
        ({"loss": "ce"}, "loss must be a function of \\(output, y\\), got 'ce'"),
        ({"evaluation_loss": 3}, "evaluation_loss must be a function"),
    ],
)
def test_constructor_arguments_of_wrong_type_raise(options, message):
    given = problem()
    with pytest.raises(ArgumentError, match=message):
        Learner(given.model, given.train, **{"loss": given.loss, "optimizer": dp.AdamW, **options})


def fit_error(error=ArgumentError, epochs=1, **options):
    with pytest.raises(error) as caught:
        make_learner(**options).fit(epochs)
    return str(caught.value)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3", True, math.inf])
def test_invalid_epochs_raise(epochs):
    assert "epochs must be an integer in [1, inf)" in fit_error(epochs=epochs)


# ---- callbacks ------------------------------------------------------------------------------------------------------


def test_misspelled_event_raises_with_suggestion():
    with pytest.raises(ArgumentError, match="'after_bacth' is not an event: did you mean 'after_batch'"):
        type("Typo", (Callback,), {"after_bacth": lambda self, learner: None})


@pytest.mark.parametrize("bad", [Callback, print, None, "Recorder"], ids=repr)
def test_non_callback_raises(bad):
    with pytest.raises(ArgumentError, match="callbacks must be instances of"):
        learner(callbacks=[bad])
    with pytest.raises(ArgumentError, match="callbacks must be instances of"):
        learner().fit(1, callbacks=[bad])


def test_fit_callbacks_must_be_a_list():
    with pytest.raises(ArgumentError, match="callbacks must be a list of callbacks"):
        learner().fit(1, callbacks=Recorder("lr"))  # pyright: ignore[reportArgumentType]


def test_same_callback_twice_raises():
    one = Recorder("lr")
    with pytest.raises(ArgumentError, match="got the same Recorder twice"):
        learner(callbacks=[one]).fit(1, callbacks=[one])
    learner(callbacks=[one]).fit(1, callbacks=[Recorder("lr")])


def test_non_callable_hook_raises():
    for name, kind in (("step", "action"), ("after_fit", "event")):
        one = Callback()
        setattr(one, name, 0)
        with pytest.raises(ArgumentError, match=f"{kind} '{name}' must be a method, got 0"):
            learner(callbacks=[one])


# ---- optimizers -----------------------------------------------------------------------------------------------------


def test_factory_without_optimizer_raises():
    message = fit_error(optimizer=lambda params, lr: 7)
    assert "must return a torch.optim.Optimizer or an object with step and zero_grad, got 7" in message


@pytest.mark.parametrize("made", [True, False])
def test_optimizer_requiring_closure_raises(made):
    model = nn.Linear(3, 2)
    make = torch.optim.LBFGS(model.parameters()) if made else torch.optim.LBFGS
    with pytest.raises(ArgumentError, match="got LBFGS, which requires one"):
        linear_learner(pairs(), make, model=model, lr=None).fit(1)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_copying_lazy_parameters_raises():
    for use in (lambda one: one.fit(1, callbacks=[EMA(0.9)]), find_lr):
        with pytest.raises(ArgumentError, match=r"weight of the model must be initialized"):
            use(linear_learner(pairs(), model=nn.Sequential(nn.LazyLinear(2))))
    linear_learner(pairs(), model=nn.Sequential(nn.LazyLinear(2))).fit(1)


# ---- losses and metrics ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda output, y: nn.functional.cross_entropy(output, y, reduction="none"), "got shape (4,)"),
        (lambda output, y: 0.5, "got 0.5"),
        (lambda output, y: None, "got None"),
    ],
)
def test_non_scalar_loss_raises(loss, got):
    assert "the loss of a batch must be a tensor with one element, " + got in fit_error(loss=loss)


def test_loss_without_trained_parameters_raises():
    model = nn.Linear(3, 2)
    one = linear_learner(pairs(), model=model)
    model.requires_grad_(False)
    with pytest.raises(ArgumentError, match="must depend on a trained parameter"):
        one.fit(1)


@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range_raise(label):
    x, y = torch.randn(4, 4), torch.tensor([0, 1, label, 2])
    message = fit_error(train=Batches(x, y, 4))
    assert message == (f"Learner: labels must be integers in [0, 2] for a model with 3 classes, got {label}.")


def test_other_errors_of_the_loss_are_not_replaced():
    output = torch.randn(4, 3)
    entropy = nn.functional.cross_entropy
    with pytest.raises(ArgumentError, match=r"integers in \[0, 2\].*got 3"):
        scalar_loss(entropy, output, torch.tensor([0, -100, 3, 1]))
    with pytest.raises(RuntimeError, match="weight tensor"):
        scalar_loss(lambda o, y: entropy(o, y, weight=torch.ones(2)), output, torch.tensor([0, -100, 2, 1]))
    with pytest.raises(KeyError, match="name"):
        scalar_loss(lambda o, y: y["name"], output, {})


def test_metric_named_loss_raises():
    with pytest.raises(ArgumentError, match="metrics must have names other than 'loss'"):
        linear_learner(pairs(), metrics={"loss": lambda output, y: output.sum()})


def test_metric_must_return_one_number():
    def hits(output, y):
        return (output.argmax(1) == y).sum()

    forms = {"tensor": hits, "number": lambda o, y: hits(o, y).item(), "row": lambda o, y: hits(o, y).reshape(1)}
    one = linear_learner(pairs(), metrics=forms)
    one.fit(1)
    means = one.history[0]["train"]
    assert means["tensor"] == means["number"] == means["row"] > 0
    with pytest.raises(ArgumentError, match=r"Metric 'each' must return .* one number, got shape \(4,\)"):
        linear_learner(pairs(), metrics={"each": lambda output, y: output.argmax(1) == y}).fit(1)
    with pytest.raises(ArgumentError, match="got None"):
        RunningMeans({"none": cast("Any", lambda output, y: None)}).add(X, Y, torch.tensor(0.0), 12)


# ---- batches --------------------------------------------------------------------------------------------------------


def test_batch_on_other_device_raises():
    x, y = torch.randn(4, 4, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    assert fit_error(train=Batches(x, y, 4)) == "Learner: train must yield tensors on cpu, got meta."


@pytest.mark.parametrize("item", [torch.zeros(2, 4), (torch.zeros(2, 4),), {"x": 1}], ids=["tensor", "one", "mapping"])
def test_batch_that_is_not_a_pair_raises(item):
    assert "train must yield pairs (x, y), got" in fit_error(train=[item])
