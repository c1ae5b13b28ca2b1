"""Values that callbacks log by name: means, loggers, names, and exact resume."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from learner_support import At, StopAt, call_if, learner, on_batch, problem, raise_if
from resume_support import Resumed, assert_same, uninterrupted
from slow_values import others_slow

import dashpot as dp
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.records import read_run
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training import CSV, SWA, Accumulate, Callback, CancelEpoch, JSONLines, Learner, Progress, TensorBoard
from dashpot.training.callbacks.run_log import RunLog
from dashpot.training.logged_values import LoggedValues, of_rank


def log_at(event, value, name="a", order=0):
    return At(event, lambda one: one.log(name, value(one)), order)


def first_x(one):
    return one.batch.x[0, 0]


def mean_by_examples(pairs):
    return math.fsum(value * size for value, size in pairs) / sum(size for _, size in pairs)


# ---- means ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_mean_is_weighted_by_examples_in_both_phases(accumulate):
    seen: dict[str, list[tuple[float, int]]] = {"train": [], "eval": []}

    def by_hand(one):
        seen[one.loop.phase].append((first_x(one).item(), one.batch.size))

    one = learner(callbacks=[log_at("after_loss", first_x), At("after_loss", by_hand), Accumulate(accumulate)])
    one.fit(1)
    assert [size for _, size in seen["train"]] == [4, 4, 2]
    for phase, pairs in seen.items():
        assert one.history[0][phase]["a"] == pytest.approx(mean_by_examples(pairs), rel=1e-15)  # sums in float64
        assert list(one.history[0][phase]) == ["loss", "accuracy", "a"]


def test_loss_logged_by_hand_equals_the_loss():
    one = learner(callbacks=[log_at("after_loss", lambda one: one.batch.loss)])
    one.fit(2)
    for means in one.history:
        for phase in ("train", "eval"):
            assert means[phase]["a"] == pytest.approx(means[phase]["loss"], rel=1e-6)  # products in float32


def test_value_of_some_batches_is_the_mean_over_these_batches():
    logs = At("after_batch", call_if(lambda one: one.log("a", one.batch.index), on_batch(1, 2)))
    one = learner(callbacks=[logs])
    one.fit(1)
    assert one.history[0]["train"]["a"] == (1 * 4 + 2 * 2) / 6
    assert "a" not in one.history[0]["eval"]


@pytest.mark.parametrize("value", [2, 2.0, True, np.float32(2), np.int64(2), torch.tensor(2), torch.tensor(2.0).half()])
def test_numbers_and_tensors_of_every_type_are_accepted(value):
    one = learner(callbacks=[log_at("after_batch", lambda _: value)])
    one.fit(1)
    assert one.history[0]["train"]["a"] == float(value)
    assert type(one.history[0]["train"]["a"]) is float


def test_tensor_that_changes_in_place_is_copied():
    total = torch.zeros(())
    one = learner(callbacks=[log_at("after_step", lambda one: total.add_(1))])
    one.fit(1)
    assert one.history[0]["train"]["a"] == (1 * 4 + 2 * 4 + 3 * 2) / 10


def test_values_with_gradients_do_not_keep_the_graph():
    one = learner(callbacks=[log_at("after_loss", lambda one: one.batch.loss * 2)])
    one.fit(1)
    one.loop.logged.add("b", torch.ones((), requires_grad=True), 1)
    assert not one.loop.logged._pending[-1][1].requires_grad


def test_tensors_are_read_once_per_interval(monkeypatch):
    reads = []
    tolist = torch.Tensor.tolist
    values = LoggedValues()
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self.numel()) or tolist(self))
    for _ in range(3 * SYNC_INTERVAL):
        values.add("a", torch.tensor(0.5), 2)
        values.add("b", torch.tensor(1.5), 2)
    assert reads == [2 * SYNC_INTERVAL] * 3
    assert values.means() == {"a": 0.5, "b": 1.5}


def test_values_of_events_around_the_batches():
    """A value of before_epoch or after_epoch has the weight of one example."""
    callbacks = [
        log_at("before_epoch", lambda one: one.epoch, "before"),
        log_at("after_epoch", lambda one: one.epoch + 0.5, "after"),
        log_at("before_batch", lambda one: 3.0, "mixed"),
        log_at("after_epoch", lambda one: 14.0, "mixed"),
    ]
    one = learner(callbacks=callbacks)
    one.fit(2)
    for epoch, means in enumerate(one.history):
        for phase in ("train", "eval"):
            assert (means[phase]["before"], means[phase]["after"]) == (epoch, epoch + 0.5)
            assert means[phase]["mixed"] == (3.0 * 10 + 14.0) / 11


def test_cancelled_phase_has_the_values_so_far():
    cancels = At("after_batch", raise_if(CancelEpoch, on_batch(1)), order=5)
    one = learner(callbacks=[log_at("after_batch", lambda one: one.batch.index), cancels])
    one.fit(1)
    assert one.history[0]["train"]["a"] == 0.5


def test_batches_computed_again_are_not_logged_twice():
    """`predict` runs again in finite differences of gradients and in updates of batch-norm statistics."""
    calls = []

    class Counts(Callback):
        def predict(self, learner, proceed):
            proceed()
            calls.append(1)
            learner.log("a", len(calls))

    def make(params, lr):
        return dp.ESGD(params, lr=lr, d_warmup=1, update_d_every=1, probe="differences")

    one = learner(make, callbacks=[Counts()])
    one.fit(1, evaluate=False)
    assert len(calls) == 9  # two gradients for the differences in each step
    assert one.history[0]["train"]["a"] == (1 * 4 + 4 * 4 + 7 * 2) / 10
    calls.clear()
    one = learner(callbacks=[Counts(), SWA(first_epoch=0)])
    one.fit(1)
    assert len(calls) == 7  # three batches for the statistics before the evaluation
    assert (one.history[0]["train"]["a"], one.history[0]["eval"]["a"]) == ((1 * 4 + 2 * 4 + 3 * 2) / 10, 7)


# ---- loggers --------------------------------------------------------------------------------------------------------


def test_logged_values_reach_every_logger(tmp_path):
    (tmp_path / "run.jsonl").write_text('{"kind":"header","format":1,"entry":"a","seed":0}\n')
    table = io.StringIO()
    logs = At("after_batch", lambda one: one.log("margin" if one.training else "margin, top", first_x(one)))
    late = At("after_epoch", call_if(lambda one: one.log("late", 0.25), lambda one: one.epoch == 1))
    loggers = [CSV(tmp_path / "log.csv"), JSONLines(tmp_path / "log.jsonl"), TensorBoard(tmp_path / "events")]
    one = learner(callbacks=[logs, late, *loggers, RunLog(tmp_path / "run.jsonl"), Progress(table)])
    one.fit(2)
    history = one.history
    assert set(history[0]["train"]) == {"loss", "accuracy", "margin"}
    assert set(history[1]["eval"]) == {"loss", "accuracy", "margin, top", "late"}
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["eval_margin, top"]) for row in rows] == [means["eval"]["margin, top"] for means in history]
    assert [row["train_late"] for row in rows] == ["", "0.25"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [{phase: line[phase] for phase in ("train", "eval")} for line in lines] == history
    epochs = read_run(tmp_path / "run.jsonl").epochs
    assert [{phase: epoch[phase] for phase in ("train", "eval")} for epoch in epochs] == history
    assert events(tmp_path / "events")["train/margin"] == [
        (3 * number, pytest.approx(means["train"]["margin"], rel=1e-6))  # stored in float32
        for number, means in enumerate(history, 1)
    ]
    text = table.getvalue().splitlines()
    assert [line.split()[0] for line in text] == ["train", "epoch", "1", "train", "epoch", "2"]
    assert text[1].split()[:4] == ["epoch", "loss", "accuracy", "margin"]
    assert text[4].split()[:5] == ["epoch", "loss", "accuracy", "margin", "late"]
    assert f"{history[0]['train']['margin']:.3f}" == text[2].split()[3]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


# ---- resume ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", others_slow([1, 2, 3, 5], 2))
def test_resumed_means_are_bit_identical(at, tmp_path):
    def callbacks():
        return [
            log_at("before_epoch", lambda one: torch.tensor(one.epoch + 0.1), "before"),
            log_at("after_loss", lambda one: one.batch.loss * 1.7, "scaled"),
            At("after_batch", call_if(lambda one: one.log("second", first_x(one)), on_batch(1))),
        ]

    resumed = Resumed(learner, tmp_path, [at], callbacks).learner
    whole = uninterrupted(learner, callbacks)
    assert_same(resumed, whole)
    assert {"before", "scaled", "second"} <= set(whole.history[0]["train"])


def test_state_of_earlier_versions_without_logged_values_resumes():
    stop = StopAt(2)
    learner().fit(1, callbacks=[stop])
    del stop.state["progress"]["logged"]
    one = learner(callbacks=[log_at("after_batch", lambda one: 1.5)])
    one.fit(1, resume=stop.state)
    assert one.history[0]["train"]["a"] == 1.5


def test_sums_of_several_ranks_are_merged_on_rank_zero():
    rows = [{"a": [1.0, 2]}, {"a": [3.0, 4], "b": [5.0, 6]}]
    assert [of_rank(rows, rank, 2) for rank in (0, 1)] == rows
    assert of_rank(rows, 0, 3) == {"a": (4.0, 6), "b": (5.0, 6)}
    assert of_rank(rows, 2, 3) == {}


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_names_of_means_are_reserved(name):
    with pytest.raises(ArgumentError, match=f"name of a logged value must not be one of loss, accuracy, got '{name}'"):
        learner(callbacks=[log_at("after_batch", first_x, name)]).fit(1)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", 3, None])
def test_unprintable_names_are_rejected(name):
    with pytest.raises(ArgumentError, match="name of a logged value must be a printable string, got"):
        learner(callbacks=[log_at("after_batch", first_x, name)]).fit(1)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.zeros(4, 3), r"a tensor of shape \(4, 3\) and dtype torch.float32"),
        (torch.zeros(1), r"a tensor of shape \(1,\)"),
        (torch.zeros((), dtype=torch.complex64), r"a tensor of shape \(\) and dtype torch.complex64"),
        ("0.5", "'0.5'"),
        (None, "None"),
    ],
)
def test_values_other_than_numbers_are_rejected(value, got):
    sentence = f"Learner: the logged value 'a' must be a number or a 0-d tensor, got {got}"
    with pytest.raises(ArgumentError, match=sentence):
        learner(callbacks=[log_at("after_batch", lambda _: value)]).fit(1)


@pytest.mark.parametrize("event", ["before_fit", "cleanup_batch", "cleanup_epoch", "after_fit"])
def test_log_outside_of_a_phase_is_rejected(event):
    with pytest.raises(RunError, match=f"from before_epoch to after_batch or in after_epoch, got {event}"):
        learner(callbacks=[log_at(event, lambda _: 1.0)]).fit(1)


def test_log_without_a_fit_is_rejected():
    one = learner()
    for _ in range(2):
        with pytest.raises(RunError, match=r"log must be called in a phase of a fit, .*, got no fit"):
            one.log("a", 1.0)
        one.fit(1)


def test_metric_named_like_an_earlier_logged_value_is_reserved():
    one = learner(callbacks=[log_at("after_batch", lambda _: 1.0, "f1")])
    one.fit(1)
    other = replace(problem(), metrics={"f1": lambda output, y: len(y)})
    with pytest.raises(ArgumentError, match="must not be one of loss, f1"):
        Learner.of(other, dp.SGD, lr=0.1, callbacks=[log_at("after_batch", first_x, "f1")]).fit(1)


def test_evaluate_returns_logged_values_and_keeps_those_of_the_fit():
    results = []
    evaluates = At(
        "before_epoch", call_if(lambda one: results.append(one.evaluate()), lambda one: one.training), order=5
    )
    one = learner(callbacks=[log_at("after_loss", lambda one: 1 + one.training), evaluates])
    one.fit(1)
    assert (one.history[0]["train"]["a"], one.history[0]["eval"]["a"]) == (2, 1)
    assert results[0]["a"] == one.evaluate()["a"] == 1
