"""Recorder: values of functions of the learner, recorded by name."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine
from dashpot.training import Callback, Recorder, Schedule


def rate(one):
    return one.opt.param_groups[0]["lr"]


def test_functions_are_recorded_before_each_step():
    weights = []

    class ByHand(Callback):
        order = 100

        def step(self, learner, proceed):
            weights.append(learner.model[0].weight[0, 0].item())
            proceed()

    recorder = Recorder("lr", rate=rate, weight=lambda one: one.model[0].weight[0, 0], two=lambda one: np.float32(2.5))
    learner(torch.optim.SGD, callbacks=[recorder, Schedule(Cosine), ByHand()]).fit(3)
    assert recorder.values["rate"] == recorder.values["lr"] == [0.01 * Cosine(9)(step) for step in range(9)]
    assert recorder.values["weight"] == weights
    assert len(set(weights)) == 9
    assert recorder.values["two"] == [2.5] * 9


def test_function_named_like_a_hyperparameter_replaces_it():
    recorder = Recorder(lr=lambda one: 2 * rate(one), loss=False)
    learner(dp.SGD, lr=0.25, callbacks=[recorder]).fit(1)
    assert recorder.values == {"lr": [0.5] * 3}


def test_tensor_that_changes_in_place_is_copied():
    total = torch.zeros(())

    def count(one):
        total.add_(1)
        return total

    recorder = Recorder(loss=False, count=count)
    learner(callbacks=[recorder]).fit(1)
    assert recorder.values == {"count": [1.0, 2.0, 3.0]}


def test_values_of_different_dtypes_keep_their_digits():
    values = iter([torch.tensor(2**24 + 1), torch.tensor(0.1, dtype=torch.float64), 0.3, torch.tensor(True)])
    recorder = Recorder(loss=False, value=lambda one: next(values))
    learner(callbacks=[recorder], examples=16).fit(1)
    assert recorder.values == {"value": [2**24 + 1, 0.1, 0.3, 1.0]}


def test_resumed_fit_has_identical_function_values():
    def fitted(callbacks=(), **options):
        recorder = Recorder(norm=lambda one: one.model[0].weight.norm())
        learner(callbacks=[recorder]).fit(3, callbacks=callbacks, **options)
        return recorder

    torch.manual_seed(2)
    whole = fitted()
    torch.manual_seed(2)
    stop = StopAt(4)
    fitted([stop])
    stream = io.BytesIO()
    torch.save(stop.state, stream)
    stream.seek(0)
    assert fitted(resume=torch.load(stream, weights_only=True)).values == whole.values
    with pytest.raises(RunError, match="names must be those of the checkpoint, loss, norm, got loss"):
        learner(callbacks=[Recorder()]).fit(3, resume=stop.state)


def test_plot_shows_functions():
    recorder = Recorder(rate=rate)
    learner(callbacks=[recorder]).fit(1)
    assert [axes.get_ylabel() for axes in recorder.plot("rate").axes] == ["rate"]


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (None, "None"),
        ("0.1", "'0.1'"),
        (torch.zeros(3, 2), r"a tensor of shape \(3, 2\) and dtype torch.float32"),
        (torch.zeros((), dtype=torch.complex64), r"a tensor of shape \(\) and dtype torch.complex64"),
        (1j, "1j"),
        ([0.0] * 1000, r"\[0.0, 0.0, .{0,70}$"),
    ],
)
def test_values_other_than_numbers_are_rejected(value, got):
    sentence = f"the value of function value must be a number or a 0-d tensor, got {got}"
    with pytest.raises(ArgumentError, match=sentence):
        learner(callbacks=[Recorder(value=lambda one: value)]).fit(1)


def test_invalid_functions_are_rejected():
    with pytest.raises(ArgumentError, match="lr must be a function of the learner, got 'lr'"):
        Recorder(lr="lr")
    with pytest.raises(ArgumentError, match="names must be distinct, got 'lr' twice"):
        Recorder("lr", lr=rate)
    with pytest.raises(ArgumentError, match="loss must be one of False, True; choose another name for a function"):
        Recorder(loss=rate)
