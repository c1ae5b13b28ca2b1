"""Resumed data repeat the batches before the checkpoint, or an error is raised."""

from __future__ import annotations

import copy

import pytest
import torch
from interval_support import INPUTS, LABELS, StopAfter, interval_learner
from learner_support import At, StopAt, X, Y, linear_learner, pairs, same, weights
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dashpot.data import Batches
from dashpot.errors import RunError
from dashpot.training.state import replay_check
from dashpot.utils.fingerprint import fingerprint


class Draws:
    """Iterable of three batches, drawn from a generator of its own, which a new process seeds again."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(0)

    def __len__(self):
        return 3

    def __iter__(self):
        for _ in range(3):
            yield torch.randn(4, 3, generator=self.draws), Y[:4]


class SavedDraws(Draws):
    """`Draws` with a state."""

    def state_dict(self):
        return {"draws": self.draws.get_state()}

    def load_state_dict(self, state):
        self.draws.set_state(state["draws"])


class DrawnExamples(IterableDataset):
    """Examples drawn from a generator of its own."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(0)

    def __len__(self):
        return 12

    def __iter__(self):
        return iter([(torch.randn(3, generator=self.draws), Y[i]) for i in range(12)])


class NoisyExamples(Dataset):
    """Examples with noise from a generator of its own, or from the global one."""

    def __init__(self, own=True):
        self.draws = torch.Generator().manual_seed(0) if own else None

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return X[index] + torch.randn(3, generator=self.draws), Y[index]


class DrawnEpochs:
    """Stream whose epochs are, against the protocol, drawn from a generator of its own."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(0)

    def __len__(self):
        return 3

    def epoch(self, index):
        return ((torch.randn(4, 3, generator=self.draws), Y[:4]) for _ in range(3))


def loader(data, **options):
    return DataLoader(data, batch_size=4, **options)


def saved_and_resumed(make, batches, resumed_with=None, change=None, **options):
    """Return the learner of a fit that was resumed with new data, and one of an uninterrupted fit."""
    torch.manual_seed(7)
    uninterrupted = linear_learner(make())
    uninterrupted.fit(3)
    torch.manual_seed(7)
    stop = StopAt(batches)
    linear_learner(make()).fit(3, callbacks=[stop])
    if change is not None:
        change(stop.state)
    torch.manual_seed(8)
    resumed = linear_learner((resumed_with or make)())
    resumed.fit(3, resume=copy.deepcopy(stop.state), **options)
    return resumed, uninterrupted


REPEATABLE = {
    "list": pairs,
    "stream": lambda: Batches(X, Y, 4, shuffle=True),
    "loader": lambda: loader(TensorDataset(X, Y), shuffle=True),
    "loader with generator": lambda: loader(TensorDataset(X, Y), shuffle=True, generator=torch.Generator()),
    "global noise": lambda: loader(NoisyExamples(own=False)),
    "saved state": SavedDraws,
}


@pytest.mark.diagonal
@pytest.mark.parametrize("batches", [1, 5, 6])
@pytest.mark.parametrize("kind", REPEATABLE)
def test_resume_with_repeated_batches_is_exact(kind, batches):
    resumed, uninterrupted = saved_and_resumed(REPEATABLE[kind], batches)
    assert same(weights(resumed), weights(uninterrupted))


WITH_STATE = {
    "iterable": Draws,
    "iterable data set": lambda: loader(DrawnExamples()),
    "data set": lambda: loader(NoisyExamples()),
    "stream": DrawnEpochs,
}


@pytest.mark.diagonal
@pytest.mark.parametrize("batches", [4, 5, 6])
@pytest.mark.parametrize("kind", WITH_STATE)
def test_resume_with_unsaved_state_raises(kind, batches):
    with pytest.raises(RunError) as caught:
        saved_and_resumed(WITH_STATE[kind], batches)
    message = str(caught.value)
    assert message.startswith("Learner: train ")
    assert "state that is not saved" in message
    assert "define state_dict and load_state_dict on the source, use dashpot.data.Batches or another Stream" in message
    assert message.endswith("or pass override=True to continue with other batches.")


@pytest.mark.parametrize("kind", WITH_STATE)
def test_resume_within_first_pass_of_new_data_is_exact(kind):
    resumed, uninterrupted = saved_and_resumed(WITH_STATE[kind], 2)
    assert same(weights(resumed), weights(uninterrupted))


@pytest.mark.parametrize("batches", [5, 6])
def test_resume_with_override_accepts_other_batches(batches):
    resumed, _ = saved_and_resumed(Draws, batches, override=True)
    assert resumed.steps == 9


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (pairs, lambda: [(x + (i == 1), y) for i, (x, y) in enumerate(pairs())]),
        (lambda: Batches(X, Y, 4), lambda: Batches(X.flip(0), Y, 4)),
        (lambda: loader(TensorDataset(X, Y)), lambda: loader(TensorDataset(X, 1 - Y))),
        (lambda: loader(TensorDataset(X, Y)), lambda: loader(TensorDataset(X.double().float() * 1.0000002, Y))),
    ],
    ids=["list", "stream", "labels", "one bit"],
)
def test_resume_with_changed_data_raises(make, other):
    with pytest.raises(RunError, match=r"train must repeat the batches before the checkpoint, but batch 2 of epoch 2"):
        saved_and_resumed(make, 5, resumed_with=other)


def test_resume_of_a_state_without_fingerprint():
    def remove(state):
        assert set(state["data"]["train"].pop("last")) == {"epoch", "batch", "fingerprints"}

    resumed, uninterrupted = saved_and_resumed(pairs, 5, change=remove)
    assert same(weights(resumed), weights(uninterrupted))


def test_resume_with_batches_changed_in_place_is_exact():
    """A batch that a callback has changed in place cannot be compared."""

    def run(batches=None, **options):
        torch.manual_seed(7)
        normalize = At("before_batch", lambda learner: learner.batch.x.sub_(1.0))
        stop = StopAt(batches) if batches else None
        subject = linear_learner(loader(TensorDataset(X, Y), shuffle=True))
        subject.fit(3, callbacks=[normalize, *([stop] if stop else [])], **options)
        return subject if stop is None else stop.state

    state = run(5)
    assert "last" not in state["data"]["train"]
    assert same(weights(run(resume=state)), weights(run()))


def test_evaluation_data_with_unsaved_state_raises():
    def run(evaluation, **options):
        subject = linear_learner(pairs(), evaluation=evaluation)
        subject.fit(2, **options)

    stop = StopAt(5)
    run(Draws(), callbacks=[stop])
    with pytest.raises(RunError, match="evaluation cannot be resumed, because two iterations"):
        run(Draws(), resume=stop.state)


def test_batches_are_hashed_only_for_saved_states(monkeypatch):
    calls = []
    monkeypatch.setattr(replay_check, "fingerprint", lambda value: calls.append(value) or fingerprint(value))
    linear_learner(pairs()).fit(2)
    assert calls == []
    linear_learner(pairs()).fit(2, callbacks=[StopAt(2)])
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.zeros(2, 3), "y": [1, "a"]},
        {"x": torch.zeros(3, 2), "y": [1, "b"]},
        {"x": torch.zeros(3, 2, dtype=torch.float64), "y": [1, "a"]},
        {"x": -torch.zeros(3, 2), "y": [1, "a"]},
        {"z": torch.zeros(3, 2), "y": [1, "a"]},
        [torch.zeros(3, 2), [1, "a"]],
    ],
    ids=["shape", "string", "dtype", "sign", "key", "type"],
)
def test_fingerprint_of_different_data_differs(other):
    assert fingerprint({"x": torch.zeros(3, 2), "y": [1, "a"]}) != fingerprint(other)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor(1.0),
        torch.zeros(0, 2),
        torch.arange(6).view(2, 3).T,
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.eye(2).to_sparse(),
        torch.tensor([True]),
        X.numpy(),
        None,
        object(),
    ],
)
def test_fingerprint_of_any_data_is_reproducible(value):
    assert fingerprint([value]) == fingerprint([copy.deepcopy(value)])


def test_checkpoint_after_a_resume_without_batches_keeps_the_fingerprint():
    """The first checkpoint is taken before the evaluation of an interval, and the second one after it."""

    def fit(stop=None, state=None, inputs=INPUTS):
        one = interval_learner([(inputs[i : i + 4], LABELS[i : i + 4]) for i in range(0, 12, 4)])
        one.fit(steps=6, evaluate_every=2, callbacks=[] if stop is None else [stop], resume=state)

    before, after = StopAfter(2), StopAfter(2, at_end=True)
    fit(before)
    fit(after, before.state)
    assert after.state["data"]["train"]["last"] == before.state["data"]["train"]["last"]
    with pytest.raises(RunError, match="must repeat the batches before the checkpoint, but batch 2 of epoch 1 differs"):
        fit(state=after.state, inputs=-INPUTS)
