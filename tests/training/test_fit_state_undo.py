"""A state that a callback or a data set rejects while it is loaded: everything is restored to its previous value."""

from __future__ import annotations

import copy
import re
from functools import partial

import pytest
import torch
from learner_support import StopAt, learner, linear_learner
from resume_support import assert_equal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.errors import RunError
from dashpot.schedules import Cosine
from dashpot.training import EMA, Callback, EarlyStopping, Recorder, Schedule
from dashpot.utils.rng_state import random_state
from dashpot.utils.schema import COUNT, Record


class Keeps(Callback):
    """Callback with a list that it changes in place, and a schema."""

    state_schema = Record({"number": COUNT})

    def __init__(self):
        self.numbers, self.number = [], 1

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.numbers.append(state["number"])
        self.number = state["number"] + 10


class Fails(Callback):
    """Callback of the highest order, whose load raises an exception."""

    order = 10_000

    def __init__(self, error):
        self.error = error

    def state_dict(self):
        return {"any": 1}

    def load_state_dict(self, state):
        raise self.error


def fitted(make, callbacks, error=None, state=None):
    """Return the learner of a fit, its callbacks, and the state after four batches or the error."""
    made, all_callbacks, stop = make(), [*callbacks(), Fails(error)], StopAt(4)
    try:
        made.fit(3, callbacks=[*all_callbacks, stop], resume=state)
    except RunError as raised:
        return made, all_callbacks, raised
    return made, all_callbacks, stop.state


def several():
    return [EMA(0.9), Schedule(Cosine), EarlyStopping(patience=9, restore_best=True), Recorder("lr"), Keeps()]


@pytest.mark.diagonal
@pytest.mark.parametrize(
    "error", [KeyError("w"), ValueError("bad value\nof two lines"), RuntimeError(), RunError("No.")]
)
@pytest.mark.parametrize("make", [dp.AdamW, torch.optim.AdamW], ids=["dashpot", "torch"])
def test_rejected_load_restores_everything(make, error):
    make = partial(learner, make)
    *_, state = fitted(make, several)
    made, expected = make(), make()
    draws = random_state()
    made, callbacks, raised = fitted(make, several, error, state)
    assert isinstance(raised, RunError)
    assert str(raised) == "No." or str(raised).endswith(". Nothing was changed.")
    assert "\n" not in str(raised)
    assert_equal(random_state(), draws)
    assert_equal(made.model.state_dict(), expected.model.state_dict())
    assert not made.opt.state
    assert made.opt.param_groups[0]["lr"] == 0.01
    assert (made.steps, made.history, made.loop.position, made.loop.means.count) == (0, [], (0, 0), 0)
    ema, schedule, stopping, recorder, keeps, _ = callbacks
    assert ema.count == 0
    assert all(torch.equal(ema.averages[name], p.detach()) for name, p in expected.model.named_parameters())
    assert schedule.state_dict()["scheduler"]["last_epoch"] == 0
    assert (stopping.best, stopping.waited, recorder.values) == (None, 0, {"loss": [], "lr": []})
    assert (keeps.numbers, keeps.number) == ([], 1)


def test_state_that_violates_the_schema_of_a_callback_is_rejected_before_any_load():
    *_, state = fitted(learner, several)
    state["callbacks"]["Keeps"]["number"] = -1
    _, callbacks, raised = fitted(learner, several, None, state)
    assert str(raised) == (
        "The state to resume from is damaged: callbacks.Keeps.number must be an integer in [0, 9.0072e+15], got -1. "
        "Nothing was changed."
    )
    assert callbacks[4].numbers == []


class Stateful(TensorDataset):
    """Data set with a state that it may reject after it has changed."""

    def __init__(self, rejects):
        super().__init__(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2)
        self.rejects, self.value = rejects, 5

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]
        if self.rejects and state["value"] == 7:
            raise LookupError("no such value")


def test_data_set_that_rejects_its_state_leaves_everything_unchanged():
    def make(rejects=True):
        return linear_learner(DataLoader(Stateful(rejects), 4, shuffle=True))

    made, stop = make(rejects=False), StopAt(2)
    made.fit(1, callbacks=[stop])
    state = copy.deepcopy(stop.state)
    state["data"]["train"]["parts"]["dataset"]["value"] = 7
    made = make()
    before = copy.deepcopy(made.model.state_dict())
    with pytest.raises(RunError, match=r"cannot be loaded: no such value\. Nothing was changed\.$"):
        made.fit(1, resume=state)
    assert made.train.source.dataset.value == 5
    assert_equal(made.model.state_dict(), before)


class Versioned(nn.Linear):
    """Layer with extra state that rejects other versions after it has been loaded."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        if state["version"] != 1:
            raise ValueError("version 2 is not supported")


def test_model_that_rejects_its_extra_state_keeps_its_weights():
    data = DataLoader(TensorDataset(torch.randn(12, 3), torch.arange(12) % 2), 4)
    made, stop = linear_learner(data, model=Versioned(3, 2)), StopAt(2)
    made.fit(1, callbacks=[stop])
    stop.state["model"]["_extra_state"]["version"] = 2
    fresh = linear_learner(data, model=Versioned(3, 2))
    before = copy.deepcopy(fresh.model.state_dict())
    with pytest.raises(RunError, match="version 2 is not supported"):
        fresh.fit(1, resume=stop.state)
    assert_equal(fresh.model.state_dict(), before)


@pytest.mark.parametrize("make", [dp.AdamW, torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_state_without_optimizer_state_is_rejected(make):
    *_, state = fitted(partial(learner, make), list)
    state["optimizer"]["state"] = {}
    *_, raised = fitted(partial(learner, make), list, None, state)
    assert re.search(r"optimizer\.state\.0\.weight is missing", str(raised))
    del state["optimizer"]["forms"]  # as in earlier versions
    *_, raised = fitted(partial(learner, make), list, None, state)
    assert re.search(r"optimizer\.state must contain the state of \w+, got an empty dict", str(raised))


def test_stateless_optimizer_of_an_earlier_version_is_resumed():
    make = partial(learner, torch.optim.SGD)
    *_, state = fitted(make, list)
    del state["optimizer"]["forms"]
    *_, last = fitted(make, list, LookupError(), state)
    assert "LookupError" in str(last)  # the callback was reached


class Scaled(nn.Linear):
    """Layer with a parameter of no dimensions, which changes its sign."""

    def __init__(self):
        super().__init__(3, 2)
        self.scale = nn.Parameter(torch.tensor(0.01))

    def forward(self, x):
        return super().forward(x) * self.scale


def test_average_of_a_scalar_that_changes_its_sign_is_resumed():
    data = DataLoader(TensorDataset(torch.randn(12, 3), torch.arange(12) % 2), 4)
    made, stop = linear_learner(data, model=Scaled()), StopAt(2)
    made.fit(1, callbacks=[EMA(0.1), stop])
    stop.state["callbacks"]["EMA"]["averages"]["scale"].fill_(-0.5)
    ema = EMA(0.1)
    fresh = linear_learner(data, model=Scaled())
    fresh.fit(1, callbacks=[ema], resume=stop.state)
    assert ema.count == 3
    stop.state["callbacks"]["EMA"]["averages"]["scale"] = torch.zeros(2)
    with pytest.raises(RunError, match=r"callbacks\.EMA\.averages\.scale must have the shape and dtype"):
        linear_learner(data, model=Scaled()).fit(1, callbacks=[EMA(0.1)], resume=stop.state)
