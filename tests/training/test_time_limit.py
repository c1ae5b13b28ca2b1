"""Time limit of a fit: end after a step, budget over resumes, and exact continuation with a higher limit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from interval_support import interval_learner, uninterrupted
from resume_support import assert_same

from dashpot.training import SWA, Accumulate, Callback, CancelFit, Checkpoints, read_newest
from dashpot.training.callbacks import time_limit


@pytest.fixture
def clock(monkeypatch):
    """Clock that advances by one second in every training batch and by ten in every evaluation."""

    class Clock(Callback):
        order = -100
        essential = False
        now = 1000.0

        def before_batch(self, learner):
            Clock.now += 1.0 if learner.training else 10.0

    monkeypatch.setattr(time_limit.time, "monotonic", lambda: Clock.now)
    return Clock


FITS: dict[str, Any] = {
    "epochs": {"epochs": 4},
    "steps": {"steps": 16, "evaluate_every": 5},
    "epochs and steps": {"epochs": 4, "evaluate_every": 5},
}
"""Fits of 16 steps, in passes of 4 steps; the evaluation takes ten seconds."""


@pytest.mark.parametrize("name", FITS)
def test_fit_ends_after_the_step_that_exceeds_the_limit(name, clock, tmp_path):
    one = interval_learner("Batches", callbacks=[clock(), Checkpoints(tmp_path)])
    one.fit(**FITS[name], max_time=2.5)
    assert one.steps == 3
    assert one.stop_reason == "the time limit of 2.5 s is reached"
    assert [sorted(epoch) for epoch in one.history] == [["eval", "train"]]
    state = read_newest(tmp_path)
    assert (state["progress"]["steps"], state["progress"]["position"]) == (3, [0, 3])


def test_limit_within_an_evaluation_ends_the_fit_after_it(clock, tmp_path):
    one = interval_learner("Batches", callbacks=[clock(), Checkpoints(tmp_path)])
    one.fit(4, max_time=5.0)
    assert (one.steps, len(one.history), one.loop.cut_at) == (4, 1, None)
    assert one.stop_reason is not None
    assert read_newest(tmp_path)["progress"]["position"] == [1, 0]


def test_limit_in_the_last_evaluation_does_not_stop(clock):
    one = interval_learner("Batches", callbacks=[clock()])
    one.fit(1, max_time=5.0)
    assert one.stop_reason is None


def test_accumulated_gradients_are_used(clock):
    one = interval_learner("Batches", callbacks=[clock(), Accumulate(2)])
    one.fit(4, max_time=0.5)
    assert (one.steps, one.loop.position, one.loop.cut_at) == (1, (1, 0), (0, 2))


@pytest.mark.diagonal
@pytest.mark.parametrize("source", ["DataLoader", "unsized iterable"])
@pytest.mark.parametrize("name", ["epochs", "steps"])
def test_resume_with_a_higher_limit_is_exact(name, source, clock, tmp_path):
    def make():
        return interval_learner(source, callbacks=[clock()])

    make().fit(**FITS[name], max_time=17.0, callbacks=[Checkpoints(tmp_path)])
    resumed = make()
    resumed.fit(**FITS[name], max_time=500.0, resume=read_newest(tmp_path))
    assert resumed.stop_reason is None
    assert_same(uninterrupted(make, **FITS[name]), resumed)


def test_resume_continues_the_budget(clock, tmp_path):
    def fit(limit, callbacks=(), **resume):
        made = interval_learner("Batches", callbacks=[clock(), Checkpoints(tmp_path, every_steps=1)])
        made.fit(steps=16, evaluate_every=16, max_time=limit, callbacks=callbacks, **resume)
        return made

    class Stop(Callback):
        order = 1000

        def after_batch(self, learner):
            if learner.training and learner.steps == 2:
                raise CancelFit

    fit(3.5, [Stop()])
    clock.now += 1e6  # the time between two sessions does not count
    resumed = fit(3.5, resume=read_newest(tmp_path))
    assert (resumed.steps, resumed.loop.cut_at) == (4, (0, 4))
    ended = fit(3.5, resume=read_newest(tmp_path))
    assert (ended.steps, ended.history) == (4, resumed.history)  # no further step


def test_fit_killed_before_its_last_evaluation_is_completed_at_the_resume(clock, tmp_path):
    class Kill(Callback):
        def before_epoch(self, learner):
            if not learner.training:
                raise MemoryError

    def fit(folder, *callbacks, **resume):
        made = interval_learner("DataLoader", callbacks=[clock(), Checkpoints(folder)])
        made.fit(4, max_time=2.5, callbacks=callbacks, **resume)
        return made

    with pytest.raises(MemoryError):
        fit(tmp_path / "killed", Kill())
    resumed = fit(tmp_path / "killed", resume=read_newest(tmp_path / "killed"))
    expected = fit(tmp_path / "other")
    assert_same(expected, resumed)
    assert resumed.stop_reason == expected.stop_reason


def test_checkpoint_before_the_evaluation_is_marked_as_the_best(clock, tmp_path):
    one = interval_learner("Batches", callbacks=[clock(), Checkpoints(tmp_path, best=("loss", "min"))], lr=0.05)
    one.fit(4, max_time=17.0)
    marked = json.loads((tmp_path / "best.json").read_text())
    assert marked["file"].startswith("step-00000007-")
    assert marked["value"] == one.history[1]["eval"]["loss"] < one.history[0]["eval"]["loss"]
    assert (marked["epoch"], one.loop.cut_at) == (2, (1, 3))


def test_unfinished_epoch_is_not_averaged(clock):
    one = interval_learner("Batches", callbacks=[clock(), swa := SWA(0)])
    one.fit(4, max_time=57.0)  # the batch-norm pass of the first epoch takes 40 s
    assert (one.loop.cut_at, swa.count) == ((1, 3), 1)
