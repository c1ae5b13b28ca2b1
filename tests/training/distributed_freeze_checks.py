"""Checks of frozen parameters with several processes."""

from __future__ import annotations

from functools import partial

import torch
from distributed_support import (
    TOLERANCE,
    StopAt,
    assert_raises,
    assert_same,
    learner,
    state_of_rank_zero,
    weights,
)

import dashpot as dp
from dashpot.training import Freeze, Learner

MAKE = partial(dp.AdamW, lr=0.05, weight_decay=0.1)


def freezing(strategy: str | None, accumulate: int, seed: int = 0) -> Learner:
    made = learner(MAKE, strategy, accumulate, dtype=torch.float64, seed=seed)
    names = [name for name, _ in made.model.named_parameters()]
    made._callbacks += [Freeze(names[0], until_epoch=1), Freeze(names[-1])]
    return made


def frozen_parameters_equal_those_of_one_process(strategy: str, accumulate: int) -> None:
    actual, expected = freezing(strategy, accumulate), freezing(None, accumulate)
    first, *_, last = weights(actual)
    before = {name: value.clone() for name, value in weights(actual).items()}
    actual.fit(3)
    expected.fit(3)
    assert_same(actual, expected, TOLERANCE[torch.float64])
    after = weights(actual)
    assert torch.equal(before[last], after[last])
    assert not torch.equal(before[first], after[first])
    assert all(p.requires_grad for p in actual.model.parameters())


def frozen_parameters_resume(saved_by: str | None, resumed_by: str | None) -> None:
    uninterrupted, stop = freezing(None, 1), StopAt(1)
    uninterrupted.fit(3)
    freezing(saved_by, 1).fit(3, callbacks=[stop])
    resumed = freezing(resumed_by, 1, seed=4)
    resumed.fit(3, resume=state_of_rank_zero(stop.state))
    assert_same(resumed, uninterrupted, TOLERANCE[torch.float64])


def second_order_rejects_frozen_parameters(strategy: str) -> None:
    made = learner(partial(dp.ESGD, lr=0.1, probe="differences"), strategy)
    made._callbacks.append(Freeze("*"))
    assert_raises(dp.ArgumentError, "with several processes, the optimizer must be of first order", lambda: made.fit(1))
