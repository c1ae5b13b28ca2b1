"""Exact resume of fits by steps: within and between intervals and passes, for data with and without a length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from interval_support import (
    SOURCES,
    StopAfter,
    UnsizedDataset,
    interval_learner,
    shuffled,
    stopped_and_resumed,
    uninterrupted,
)
from resume_support import assert_same
from slow_values import others_slow
from torch.utils.data import DataLoader

from dashpot.errors import ArgumentError, NonFiniteError, RunError
from dashpot.schedules import Cosine
from dashpot.training import EMA, Accumulate, Callback, NonFinite, Schedule, one_cycle

STEPS = 11
"""Number of steps of a fit; a pass has about 4 batches, and an interval 3 steps."""

STOPS = [(2, False), (3, False), (3, True), (4, False), (7, False), (8, False), (9, True), (10, False)]
"""Numbers of steps after which a fit is stopped, and whether this is after the evaluation of an interval."""


def cases(fast, sources):
    """Return pairs of sources and stops; those whose stop is not in `fast`, or source not in `sources`, are slow."""
    return [
        pytest.param(source, *stop, marks=() if stop in fast and source in sources else pytest.mark.slow)
        for source in SOURCES
        for stop in STOPS
    ]


@pytest.mark.parametrize(
    ("source", "at", "at_end"), cases([(3, True)], ("DataLoader", "unsized iterable", "IterableDataset"))
)
def test_fit_by_steps_resumes_exactly(source, at, at_end, tmp_path):
    def make():
        callbacks = [EMA(0.9), one_cycle(), Schedule({"weight_decay": Cosine(4)}, per="epoch")]
        return interval_learner(source, callbacks=callbacks)

    fit: Any = {"steps": STEPS, "evaluate_every": 3}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, at_end=at_end, **fit))


@pytest.mark.parametrize("source", others_slow(SOURCES, "Batches", "list", "unsized stream"))
@pytest.mark.parametrize(
    ("at", "at_end"),
    [pytest.param(1, False, marks=pytest.mark.slow), pytest.param(2, True, marks=pytest.mark.slow), (3, False)],
    ids=str,
)
def test_fit_by_steps_with_accumulation_resumes_exactly(source, at, at_end, tmp_path):
    def make():
        return interval_learner(source, callbacks=[Accumulate(3)])

    fit: Any = {"steps": 5, "evaluate_every": 2}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, at_end=at_end, **fit))


@pytest.mark.diagonal
@pytest.mark.parametrize("source", ["unsized stream", "unsized iterable", "IterableDataset"])
@pytest.mark.parametrize("at", [2, 5])
def test_epochs_of_data_without_length_resume_exactly(source, at, tmp_path):
    def make():
        return interval_learner(source, callbacks=[Accumulate(2)])

    fit: Any = {"epochs": 4}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, **fit))


@pytest.mark.parametrize(("at", "at_end"), [(3, False), (4, True)])
def test_evaluate_every_with_epochs_resumes_exactly(at, at_end, tmp_path):
    def make():
        return interval_learner("DataLoader", callbacks=[Accumulate(3)])

    fit: Any = {"epochs": 4, "evaluate_every": 2}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, at_end=at_end, **fit))


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 4, 6])
@pytest.mark.parametrize("sized", [True, False])
def test_loader_with_workers_resumes_exactly(sized, at, tmp_path):
    def make():
        data = shuffled(workers=2) if sized else DataLoader(UnsizedDataset(), 4, num_workers=2, drop_last=True)
        return interval_learner(data)

    fit: Any = {"steps": 8, "evaluate_every": 3}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, **fit))


# ---- changed lengths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["Batches", "unsized stream"])
def test_finished_fit_resumes_with_more_steps(source):
    short = interval_learner(source)
    short.fit(steps=7, evaluate_every=3)
    state = short.state_dict()
    longer = interval_learner(source)
    longer.fit(steps=12, resume=state)  # the interval is that of the checkpoint
    whole = interval_learner(source)
    whole.fit(steps=12, evaluate_every=3)
    assert all(torch.equal(a, b) for a, b in zip(longer.model.parameters(), whole.model.parameters(), strict=True))
    assert (longer.steps, len(longer.history), longer.epochs) == (12, 5, 5)  # 3, 6, 7, 10 and 12 steps


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        ({"steps": 6}, {"steps": 5}, "steps must be at least those of the checkpoint, 6, got 5"),
        ({"steps": 6}, {"epochs": 2}, "steps and evaluate_every must be those of the checkpoint, .* got only epochs"),
        ({"epochs": 1}, {"steps": 5}, "the length must be given in epochs, as for the checkpoint, got steps"),
        ({"steps": 6}, {"epochs": 2, "evaluate_every": 3}, "in steps, as for the checkpoint, got epochs with"),
        ({"steps": 6}, {"steps": 8, "evaluate_every": 3}, "evaluate every: saved 4, current 3"),
    ],
)
def test_resume_with_a_different_length_raises(first, second, match):
    done, resumed = interval_learner("Batches"), interval_learner("Batches")
    done.fit(**first)
    with pytest.raises(RunError, match=match):
        resumed.fit(**second, resume=done.state_dict())


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("drawn", 7, "drawn must be 6, got 7"),
        pytest.param("drawn", 5, "drawn must be 6, got 5", marks=pytest.mark.slow),
        ("pass", [0, 2], r"pass must be \[1, 2\], got \[0, 2\]"),
        ("start", 5, "drawn must be 8, got 6"),
        pytest.param("every", 0, "every must be an integer", marks=pytest.mark.slow),
        ("by", "passes", "by must be"),
    ],
)
def test_damaged_position_raises(key, value, match):
    done, resumed = interval_learner("Batches"), interval_learner("Batches")
    done.fit(steps=8, evaluate_every=3, callbacks=[stop := StopAfter(6)])
    state = stop.state
    state["progress"]["interval"][key] = value
    with pytest.raises(RunError, match=match):
        resumed.fit(steps=8, evaluate_every=3, resume=state)
    assert resumed.steps == 0


@pytest.mark.parametrize("accumulate", [1, 2])
def test_accumulation_cannot_change(accumulate):
    done, resumed = interval_learner("Batches"), interval_learner("Batches")
    done.fit(steps=4, callbacks=[Accumulate(3 - accumulate)])
    with pytest.raises(RunError, match=r"^Settings that must not change within an epoch differ: accumulate: saved"):
        resumed.fit(steps=8, callbacks=[Accumulate(accumulate)], resume=done.state_dict(), override=True)


def test_override_changes_the_interval_between_intervals():
    done, resumed = interval_learner("Batches"), interval_learner("Batches")
    done.fit(steps=6, evaluate_every=3)
    resumed.fit(steps=10, evaluate_every=2, resume=done.state_dict(), override=True)
    assert (resumed.epochs, resumed.steps) == (4, 10)


def test_resume_of_a_schedule_for_unknown_steps_raises():
    with pytest.raises(
        ArgumentError, match=r"^fit: the number of steps is unknown, .*; pass steps=N instead of epochs"
    ):
        interval_learner("unsized stream").fit(2, callbacks=[Schedule(Cosine)])


def test_torch_scheduler_of_the_optimizer_needs_no_steps():
    one = interval_learner("unsized stream")
    one.fit(2, callbacks=[Schedule(lambda opt: torch.optim.lr_scheduler.StepLR(opt, 3))])
    assert one.steps == 7


# ---- snapshots ------------------------------------------------------------------------------------------------------


REWOUND = [name for name in SOURCES if name != "IterableDataset"]  # its pass begins here


@pytest.mark.parametrize("source", others_slow(REWOUND, "DataLoader", "unsized stream"))
def test_snapshot_of_a_nonfinite_step_resumes_before_the_step(source, tmp_path):
    """The failing step has the micro-batches 7 to 9; they belong to two passes of four batches."""

    class Infinite(Callback):
        def after_loss(self, learner):
            if learner.training and learner.steps == 2 and learner.batch.is_last_microbatch:
                learner.batch.loss = learner.batch.loss * torch.inf

    class Seen(Callback):
        def __init__(self):
            self.x = []

        def before_batch(self, learner):
            if learner.training:
                self.x.append(learner.batch.x.clone())

    first, second = Seen(), Seen()
    one = interval_learner(source, callbacks=[Accumulate(3), first, Infinite(), NonFinite("raise", tmp_path)])
    with pytest.raises(NonFiniteError):
        one.fit(steps=5, evaluate_every=2)
    [path] = tmp_path.glob("nonfinite-*.pt")
    state = torch.load(path, weights_only=True)["state"]
    resumed = interval_learner(source, callbacks=[Accumulate(3), second, NonFinite("raise", tmp_path)])
    resumed.fit(steps=5, evaluate_every=2, resume=state, override=True)
    # The order of a pass that begins within the step depends on the random numbers of the model.
    assert torch.equal(first.x[-3], second.x[0])
    assert resumed.steps == 5
