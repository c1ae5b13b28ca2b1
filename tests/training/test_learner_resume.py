"""A fit that stops between two batches and goes on from its state ends with the same bits."""

from __future__ import annotations

import pytest
import torch
from learner_support import StopAt, learner, same, weights
from registry import SUBJECTS

import dashpot as dp


def uninterrupted_and_resumed(make, at, **options):
    torch.manual_seed(7)
    whole = learner(make, **options)
    whole.fit(3)
    torch.manual_seed(7)
    stop = StopAt(at)
    first = learner(make, **options)
    first.fit(3, callbacks=[stop])
    torch.manual_seed(99)
    second = learner(make, seed=0, **options)
    for p in second.model.parameters():
        torch.nn.init.zeros_(p)
    second.fit(3, resume=stop.state)
    return whole, second


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6, 8, 9])
def test_it_goes_on_from_any_batch(at):
    whole, resumed = uninterrupted_and_resumed(dp.AdamW, at)
    assert same(weights(whole), weights(resumed))
    assert whole.history == resumed.history
    assert whole.steps == resumed.steps == 9


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_every_method_goes_on_in_the_middle_of_an_epoch(subject):
    def make(params, lr):
        return subject.make(list(params), lr)

    whole, resumed = uninterrupted_and_resumed(make, 4, lr=subject.lr)
    assert same(weights(whole), weights(resumed))
