"""Malformed states of a fit: rejected before anything changes, or without influence on the weights."""

from __future__ import annotations

import random
import re
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner, same, weights
from mutations import VALUES, mutated, paths
from resume_support import assert_equal
from test_learner_optimizers import RATES
from test_learner_optimizers import learner as several_optimizers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.errors import RunError
from dashpot.schedules import Cosine
from dashpot.training import (
    EMA,
    Accumulate,
    Checkpoints,
    EarlyStopping,
    Engine,
    JSONLines,
    Learner,
    NonFinite,
    Recorder,
    Schedule,
)
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.utils.rng_state import random_state

EPOCHS = 3


def deep(levels=2000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


MUTATIONS = {**VALUES, "deep": deep()}


def seed():
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


HARMFUL = {
    (("EarlyStopping", "best"), "negative"),  # a metric may have any value
    (("callbacks", "JSONLines"), "deleted"),  # the logger rejects the existing file in its first epoch
    (("fingerprints", 0), "text"),  # the first batch is compared after the restore
}
"""Mutations that cannot be found by a check of the state."""


class Case:
    """A learner with callbacks, its state within the second epoch, and the weights at the end of the fit."""

    def __init__(self, make, callbacks, folder):
        self.make, self.callbacks = make, callbacks
        stop = StopAt(5)
        self.fit([*callbacks(folder / "stopped"), stop])
        self.state, self.log = stop.state, folder / "stopped" / "log.jsonl"
        self.final = weights(self.fit(callbacks(folder / "whole"))[0])

    def fit(self, callbacks, **options):
        """Return the learner of a new fit, and the exception that ended the fit."""
        seed()
        made = self.make()
        try:
            made.fit(EPOCHS, callbacks=callbacks, **options)
        except RunError as error:
            return made, error
        return made, None


def adamw(folder):
    schedule = Schedule(Cosine)
    stopping = EarlyStopping("accuracy", mode="max", patience=9, restore_best=True)
    saving = Checkpoints(folder / "checkpoints", best=("accuracy", "max"))
    return [EMA(0.9), schedule, stopping, Accumulate(2), NonFinite(), Recorder("lr"), saving]


def plain(folder):
    schedule = Schedule(partial(torch.optim.lr_scheduler.StepLR, step_size=2))
    return [schedule, JSONLines(folder / "log.jsonl")]


def loader_learner():
    """Return a learner of torch's AdamW and a shuffled `DataLoader` with a generator."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 4, generator=draw), torch.randint(0, 3, (12,), generator=draw)
    data = DataLoader(TensorDataset(x, y), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))
    make = partial(torch.optim.AdamW, lr=0.01)
    return Learner(model, data, loss=nn.functional.cross_entropy, optimizer=make, engine=Engine("cpu"))


def averaged(folder):
    return [EMA(0.9)]


CASES = {
    "dashpot": (partial(learner, dp.AdamW), adamw),
    "torch": (loader_learner, plain),
    "several": (several_optimizers, averaged),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    return Case(*CASES[request.param], tmp_path_factory.mktemp(request.param))


def mutations(state):
    for path in paths(state, items_of_long_lists=1):
        yield path, "deleted", mutated(state, path, delete=True)
        for name, value in MUTATIONS.items():
            yield path, name, mutated(state, path, value)


def outcome(case, state, folder):
    """Return "rejected" or "same", or a description of a fault."""
    folder.mkdir(exist_ok=True)
    log = case.log.read_bytes() if case.log.exists() else b""
    (folder / "log.jsonl").write_bytes(log)
    seed()
    untouched, draws = case.make(), random_state()
    made, error = case.fit(callbacks := case.callbacks(folder), resume=state)
    if error is None:
        return "same" if same(weights(made), case.final) else "different"
    assert re.fullmatch(r"[^\n]{1,1500}\.", str(error)), error
    assert_equal(random_state(), draws)
    assert_equal(made.model.state_dict(), untouched.model.state_dict())
    assert all(p.grad is None and p.requires_grad for p in made.model.parameters())
    assert_equal(made.train.state_dict()["own"], untouched.train.state_dict()["own"])
    assert (made.steps, made.history) == (0, [])
    if made.opt is not None:  # the optimizer is created after the check of the form
        for name, opt in named_optimizers(made.opt).items():
            assert not opt.state
            assert opt.param_groups[0]["lr"] == RATES.get(name, 0.01)
        assert made.loop.position == (0, 0)
        assert not any(getattr(callback, "count", 0) for callback in callbacks)
    assert not list(folder.rglob("*.ckpt"))
    assert (folder / "log.jsonl").read_bytes() == log
    return "rejected"


def test_unchanged_state_resumes_to_the_same_weights(case, tmp_path):
    assert outcome(case, case.state, tmp_path) == "same"


def faults(case, folder, step):
    """Return the faults of every `step`-th mutation."""
    found = []
    for number, (path, kind, state) in enumerate(islice(mutations(case.state), 0, None, step)):
        if (path[-2:], kind) in HARMFUL:
            continue
        try:
            result = outcome(case, state, folder / str(number))
        except Exception as error:  # all faults are reported together
            result = f"{type(error).__name__}: {str(error)[:100]}"
        if result not in ("rejected", "same"):
            found.append(f"{'.'.join(map(str, path))} {kind}: {result}")
    return found


def test_malformed_states_are_rejected_or_harmless(case, tmp_path):
    assert faults(case, tmp_path, step=251) == []


@pytest.mark.slow
def test_every_malformed_state_is_rejected_or_harmless(case, tmp_path):
    assert faults(case, tmp_path, step=1) == []
