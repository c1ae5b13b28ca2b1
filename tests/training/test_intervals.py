"""Fits by steps: intervals, accumulation over passes, and equality with fits by epochs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from event_support import EventLog
from interval_support import INPUTS, LABELS, SOURCES, UnsizedStream, batches, interval_learner
from learner_support import same, weights
from slow_values import others_slow
from terminal_support import Terminal
from torch import nn

from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.training import (
    SWA,
    Accumulate,
    Callback,
    CancelEpoch,
    Checkpoints,
    EarlyStopping,
    Engine,
    Learner,
    Progress,
    find_lr,
)
from dashpot.training.callbacks import progress_output


class Places(Callback):
    """Record the first element of every batch of the training."""

    def __init__(self):
        self.seen = []

    def before_batch(self, learner):
        if learner.training:
            self.seen.append(float(learner.batch.x[0, 0]))


def fitted(source, *callbacks, **fit):
    made = interval_learner(source)
    made.fit(callbacks=callbacks, **fit)
    return made


# ---- intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_default_interval_is_one_pass(source):
    if "unsized" in source or source == "IterableDataset":
        one = fitted(source, steps=7)
        assert (one.epochs, len(one.history), one.steps) == (1, 1, 7)
        return
    by_steps, by_epochs = fitted(source, steps=8), fitted(source, epochs=2)
    assert same(weights(by_steps), weights(by_epochs))
    assert by_steps.history == by_epochs.history
    assert (by_steps.epochs, by_steps.total_steps, by_steps.steps) == (2, 8, 8)


def test_last_interval_is_shorter():
    ends = []

    class Ends(Callback):
        def after_epoch(self, learner):
            ends.append((learner.training, learner.epoch, learner.steps))

    one = fitted("Batches", Ends(), steps=7, evaluate_every=3)
    assert ends == [(training, epoch, steps) for epoch, steps in enumerate([3, 6, 7]) for training in (True, False)]
    assert (one.epochs, len(one.history), one.loop.position) == (3, 3, (3, 0))


def test_means_of_interval_cover_its_batches():
    seen = []

    class Losses(Callback):
        def after_loss(self, learner):
            if learner.training:
                seen.append((learner.batch.loss.item(), learner.batch.size))

    one = fitted(batches(), Losses(), steps=5, evaluate_every=3)
    expected = [
        sum(loss * size for loss, size in part) / sum(size for _, size in part) for part in (seen[:3], seen[3:])
    ]
    # The loop sums float32 losses in float64.
    assert [epoch["train"]["loss"] for epoch in one.history] == pytest.approx(expected, rel=1e-6)


@pytest.mark.diagonal
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("source", ["Batches", "list", "DataLoader"])
def test_evaluate_every_with_epochs_takes_the_same_steps(source, accumulate):
    one = fitted(source, Accumulate(accumulate), epochs=3, evaluate_every=2)
    other = fitted(source, Accumulate(accumulate), epochs=3)
    assert same(weights(one), weights(other))
    assert one.steps == other.steps == one.total_steps
    assert (len(one.history), one.epochs) == (-(-one.steps // 2),) * 2


def test_accumulated_steps_cross_passes():
    """Batches of 4, 4, 4, 2 examples, three per step: 4+4+4, 2+4+4 and 4+2+4."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    reference = nn.Linear(4, 3).double()
    reference.load_state_dict(model.state_dict())
    data = [(x.double(), y) for x, y in batches()]

    class Stream:
        def epoch(self, index):
            return iter(data)

    one = Learner(
        model, Stream(), loss=nn.functional.cross_entropy, optimizer=torch.optim.SGD, lr=0.5, engine=Engine("cpu")
    )
    one.fit(steps=3, callbacks=[Accumulate(3)])
    opt = torch.optim.SGD(reference.parameters(), lr=0.5)
    stream = data * 3
    for step in range(3):
        parts = stream[3 * step : 3 * step + 3]
        x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        opt.zero_grad()
        nn.functional.cross_entropy(reference(x), y).backward()
        opt.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # float64, three steps


def test_cancelled_interval_skips_its_remaining_batches():
    class First(Callback):
        order = 10

        def before_batch(self, learner):
            if learner.training and learner.epoch == 1 and learner.batch.index == 1:
                raise CancelEpoch

    whole, part = Places(), Places()
    fitted("Batches", whole, steps=9, evaluate_every=3)
    one = fitted("Batches", part, First(), steps=9, evaluate_every=3)
    assert part.seen == whole.seen[:5] + whole.seen[6:]
    assert (one.steps, len(one.history)) == (7, 3)


# ---- data without a length ------------------------------------------------------------------------------------------


class Unsized:
    """Stream without a length, with the batches of `stream`."""

    def __init__(self, stream):
        self.epoch = stream.epoch


@pytest.mark.parametrize("accumulate", others_slow([1, 3, 5], 3))
def test_epochs_of_data_without_length_equal_those_with_length(accumulate):
    one = fitted(Unsized(SOURCES["Batches"]()), Accumulate(accumulate), epochs=2)
    other = fitted("Batches", Accumulate(accumulate), epochs=2)
    assert same(weights(one), weights(other))
    assert one.history == other.history
    assert one.steps == other.steps
    with pytest.raises(ArgumentError, match=r"the number of steps is unknown, .* pass steps=N instead of epochs\.$"):
        _ = one.total_steps


def test_epochs_of_varying_length():
    one = fitted(UnsizedStream(), epochs=3)
    assert (one.steps, len(one.history)) == (3 + 4 + 3, 3)


@pytest.mark.parametrize("fit", [{"epochs": 2}, {"steps": 2}])
def test_pass_without_batches_raises(fit):
    class Empty:
        def __iter__(self):
            return iter(())

    with pytest.raises(RunError, match=r"^Learner: train must yield at least one batch, got none in epoch 1\.$"):
        fitted(Empty(), **fit)


def test_endless_data():
    class Endless:
        def __iter__(self):
            while True:
                yield from batches()

    one = fitted(Endless(), SWA(1), steps=9, evaluate_every=3)  # the batch-norm pass of SWA also ends
    assert (one.steps, len(one.history)) == (9, 3)


def test_find_lr_of_data_without_length():
    curves = [find_lr(interval_learner(source)) for source in (Unsized(SOURCES["Batches"]()), "Batches")]
    assert curves[0].losses == curves[1].losses
    assert len(curves[0].losses) > 20


# ---- callbacks ------------------------------------------------------------------------------------------------------


def test_side_pass_within_a_pass_does_not_change_the_data():
    with_swa, without = Places(), Places()
    one = fitted("DataLoader", with_swa, SWA(0), steps=9, evaluate_every=3)
    fitted("DataLoader", without, steps=9, evaluate_every=3)
    assert with_swa.seen == without.seen
    assert one.steps == len(without.seen) == 9


def test_side_pass_of_persistent_workers_raises():
    one = fitted("Batches", steps=1)
    loader = SimpleNamespace(source=SimpleNamespace(persistent_workers=True))
    with pytest.raises(ArgumentError, match=r"^Learner: train must not have persistent_workers"):
        one.loop.plan.side_pass(cast(Any, loader), 0)


def test_early_stopping_counts_intervals():
    one = fitted("Batches", EarlyStopping(patience=2, min_delta=100.0), steps=90, evaluate_every=3)
    assert one.stop_reason is not None
    assert one.stop_reason.endswith("for 2 intervals")
    assert one.steps == 9


def test_checkpoints_after_intervals(tmp_path):
    fitted("Batches", Checkpoints(tmp_path, every_steps=5), steps=7, evaluate_every=3)
    names = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert names == ["step-00000005-00002.ckpt", "step-00000006-00003.ckpt", "step-00000007-00004.ckpt"]


@pytest.mark.usefixtures("xterm")
def test_progress_shows_steps(monkeypatch):
    bars, stream = [], Terminal()
    monkeypatch.setattr(progress_output.Terminal, "draw", lambda self, bar: bars.append(bar))
    one = interval_learner("Batches", held_out=Unsized(Batches(INPUTS, LABELS, 7)))
    one.fit(steps=6, evaluate_every=4, callbacks=[Progress(stream, every_s=0)])
    train, evaluation = ([bar for bar in bars if phase in bar.title] for phase in ("train", "eval"))
    assert [bar.title for bar in train[:2]] == ["step 0/6  train", "step 1/6  train"]
    assert [bar.batches for bar in train] == ["0/4", "1/4", "2/4", "3/4", "4/4", "0/2", "1/2", "2/2"]
    assert [bar.batches for bar in evaluation[:3]] == ["batch 0", "batch 1", "batch 2"]
    assert {bar.time_left for bar in bars} == {""}  # the evaluation data have no length
    lines, _, _ = stream.screen()
    assert [line.split()[0] for line in lines if line][-3:] == ["step", "4", "6"]


def test_remaining_batches():
    one = interval_learner("Batches")
    one.fit(steps=10, evaluate_every=4, callbacks=[Accumulate(2)])
    plan = one.loop.plan
    assert [plan.batches_left(epoch, done) for epoch, done in ((0, 0), (0, 3), (1, 2), (2, 4))] == [20, 17, 10, 0]


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fit", "match"),
    [
        ({}, "exactly one of epochs and steps must be given, got neither"),
        ({"epochs": 1, "steps": 2}, "exactly one of epochs and steps must be given, got epochs=1 and steps=2"),
        ({"steps": 0}, "steps must be an integer in"),
        ({"steps": 2.5}, "steps must be an integer in"),
        ({"steps": 2, "evaluate_every": 0}, "evaluate_every must be an integer in"),
        ({"epochs": 2, "max_time": 0}, "max_time must be a number in"),
        ({"steps": 2, "train": False}, "steps and evaluate_every must be None with train=False"),
    ],
)
def test_invalid_lengths_raise(fit, match):
    with pytest.raises(ArgumentError, match=f"^fit: {match}"):
        fitted("Batches", **fit)


def test_evaluate_every_with_epochs_and_without_length_raises():
    with pytest.raises(ArgumentError, match=r"^fit: evaluate_every with epochs requires .*; pass steps=N instead"):
        fitted(UnsizedStream(), epochs=2, evaluate_every=2)


def test_events_of_intervals_are_those_of_epochs():
    seen = []
    for fit in ({"epochs": 2}, {"steps": 8}):
        fitted("Batches", events := EventLog(), **fit)
        seen.append(events.events)
    assert seen[0] == seen[1]
