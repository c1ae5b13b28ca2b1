"""Loggers: entries, and resume without lost or repeated entries."""

from __future__ import annotations

import copy
import csv
import json
import math
import sys

import pytest
import torch
from learner_support import StopAt, learner

import dashpot as dp
from dashpot.constraints import Interval
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine
from dashpot.training import Callback, CancelEpoch
from dashpot.training.callbacks import CSV, JSONLines, TensorBoard
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.recorder import Recorder
from dashpot.utils.strict_json import encode

pytestmark = pytest.mark.filterwarnings("ignore:.*tensorboard.*:DeprecationWarning")


def scheduled(params, lr):
    return dp.AdamW(params, lr=lr, schedule=Cosine(12))


def read_lines(path):
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
    return lines


def read_csv(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row.pop("seconds")
    return rows


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    tags = sorted(found.Tags()["scalars"])
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags if tag != "epoch/seconds"}


def test_jsonlines_entries_of_epochs_and_steps(tmp_path):
    one, recorder = learner(scheduled), Recorder("lr", "grad_norm")
    one.fit(2, callbacks=[JSONLines(tmp_path / "new" / "log.jsonl", every=2, values=["lr", "grad_norm"]), recorder])
    lines = read_lines(tmp_path / "new" / "log.jsonl")
    values = recorder.values
    for line in lines:
        if line["kind"] == "step":
            i = line["step"] - 1
            assert line["epoch"] == 1 + i // 3
            assert (line["loss"], line["lr"], line["grad_norm"]) == tuple(
                values[name][i] for name in ("loss", "lr", "grad_norm")
            )
    assert [(line["kind"], line["step"]) for line in lines] == [
        *(("step", 2), ("epoch", 3)),
        *(("step", 4), ("step", 6), ("epoch", 6)),
    ]
    for number, line in enumerate(line for line in lines if line["kind"] == "epoch"):
        assert {"train": line["train"], "eval": line["eval"]} == one.history[number]
        assert line["lr"] == values["lr"][3 * number + 2]  # rate of the last step, not the next one


def test_csv_rows_of_epochs(tmp_path):
    one = learner(scheduled)
    one.fit(2, callbacks=[CSV(tmp_path / "log.csv")])
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,train_loss,train_accuracy,eval_loss,eval_accuracy,lr,seconds"
    assert len(lines) == 3
    for row, means in zip(read_csv(tmp_path / "log.csv"), one.history, strict=True):
        assert float(row["train_loss"]) == means["train"]["loss"]
        assert float(row["eval_accuracy"]) == means["eval"]["accuracy"]


def test_csv_rows_of_steps(tmp_path):
    one, recorder = learner(), Recorder("betas[1]")
    one.fit(1, callbacks=[CSV(tmp_path / "log.csv", every=1, values=["lr", "betas[1]"]), recorder], evaluate=False)
    rows = read_csv(tmp_path / "log.csv")
    assert list(rows[0]) == ["kind", "epoch", "step", "loss", "betas[1]", "train_loss", "train_accuracy", "lr"]
    assert [row["kind"] for row in rows] == ["step", "step", "step", "epoch"]
    assert [float(row["loss"]) for row in rows[:3]] == recorder.values["loss"]
    assert {row["betas[1]"] for row in rows} == {"0.999", ""}


@pytest.fixture(autouse=True)
def reset_event_file_counter(monkeypatch):
    """Reset the process-wide counter, by which TensorBoard sorts files of the same second as text (10 before 9)."""
    from tensorboard.summary.writer import event_file_writer

    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def test_tensorboard_values_of_epochs_and_steps(tmp_path):
    one, recorder = learner(scheduled), Recorder("lr")
    one.fit(2, callbacks=[TensorBoard(tmp_path, every=2), recorder])
    events = read_events(tmp_path)
    # Scalars are stored in float32.
    assert events["step/loss"] == [(i, pytest.approx(recorder.values["loss"][i - 1], rel=1e-6)) for i in (2, 4, 6)]
    assert events["step/lr"] == [(i, pytest.approx(recorder.values["lr"][i - 1], rel=1e-6)) for i in (2, 4, 6)]
    assert events["eval/accuracy"] == [
        (3 * n, pytest.approx(means["eval"]["accuracy"], rel=1e-6)) for n, means in enumerate(one.history, 1)
    ]


LOGS = {
    "jsonl": (lambda folder: JSONLines(folder / "log", every=2), lambda folder: read_lines(folder / "log")),
    "csv": (lambda folder: CSV(folder / "log", every=1), lambda folder: read_csv(folder / "log")),
    "epochs": (lambda folder: CSV(folder / "log"), lambda folder: read_csv(folder / "log")),
    "tensorboard": (lambda folder: TensorBoard(folder / "log", every=2), lambda folder: read_events(folder / "log")),
}


class AfterEpoch(Callback):
    """Save the state after the first epoch, like a checkpoint."""

    order = 90

    def after_epoch(self, learner):
        if not learner.training and learner.epoch == 0:
            self.state = copy.deepcopy(learner.state_dict())
            self.state["callbacks"].pop("AfterEpoch", None)


@pytest.mark.diagonal
@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize(
    "at", [1, pytest.param(3, marks=pytest.mark.slow), "epoch", 4, pytest.param(5, marks=pytest.mark.slow), 9]
)
def test_resumed_log_equals_uninterrupted_log(kind, at, tmp_path):
    make, read = LOGS[kind]
    torch.manual_seed(7)
    learner().fit(3, callbacks=[make(tmp_path / "whole")])
    stop = AfterEpoch() if at == "epoch" else StopAt(at)
    if at != "epoch":  # the fit continues after saving its state, like a fit that is killed later
        stop.after_batch = lambda one, kept=stop.after_batch: call_without_cancel(kept, one)
    torch.manual_seed(7)
    learner().fit(2 if at != 9 else 3, callbacks=[make(tmp_path / "cut"), stop])
    for _ in range(2):
        learner(seed=0).fit(3, callbacks=[make(tmp_path / "cut")], resume=stop.state)
        assert read(tmp_path / "cut") == read(tmp_path / "whole")


def call_without_cancel(hook, one):
    from dashpot.training import CancelFit

    try:
        hook(one)
    except CancelFit:
        return


def test_entries_with_accumulation_and_cancelled_evaluation(tmp_path):
    class Cancels(Callback):
        def before_batch(self, learner):
            if learner.epoch == 1 and not learner.training:
                raise CancelEpoch

    one = learner(batch_size=2)  # five batches, in steps of 2, 2 and 1
    one.fit(3, callbacks=[Accumulate(2), Cancels(), recorder := Recorder(), JSONLines(tmp_path / "log", every=3)])
    lines = read_lines(tmp_path / "log")
    assert [(line["kind"], line["step"]) for line in lines] == [(k, s) for s in (3, 6, 9) for k in ("step", "epoch")]
    assert [line["loss"] for line in lines[::2]] == recorder.values["loss"][2::3]
    assert [bool(line["eval"]) for line in lines[1::2]] == [True, False, True]


def test_fit_within_exception_handler_logs_cancelled_epochs(tmp_path):
    class Cancels(Callback):
        def before_batch(self, learner):
            if learner.epoch == 1 and not learner.training:
                raise CancelEpoch

    learner().fit(3, callbacks=[Cancels(), JSONLines(tmp_path / "plain")])
    try:
        int("no number")
    except ValueError:
        learner().fit(3, callbacks=[Cancels(), JSONLines(tmp_path / "handling")])
    plain, handling = (
        [(line["kind"], line.get("epoch")) for line in read_lines(tmp_path / name)] for name in ("plain", "handling")
    )
    assert plain == handling == [("epoch", 1), ("epoch", 2), ("epoch", 3)]


def test_entries_before_a_failure_are_written(tmp_path):
    class Fails(Callback):
        def after_step(self, learner):
            if learner.steps == 5:
                raise ValueError("expected")

    with pytest.raises(ValueError, match="expected"):
        learner().fit(3, callbacks=[JSONLines(tmp_path / "log", every=1), Fails()])
    assert [line["step"] for line in read_lines(tmp_path / "log")][:5] == [1, 2, 3, 3, 4]


def test_nonfinite_numbers(tmp_path):
    one = learner(dp.SGD, lr=1e38)
    one.fit(2, callbacks=[JSONLines(tmp_path / "log.jsonl", every=1), CSV(tmp_path / "log.csv")])
    assert "nan" in {line.get("loss") for line in read_lines(tmp_path / "log.jsonl")}
    assert read_csv(tmp_path / "log.csv")[-1]["train_loss"] == "nan"
    assert encode({"a": (1, -math.inf)}) == '{"a":[1,"-inf"]}'


def test_files_of_different_runs_are_rejected_unchanged(tmp_path):
    path = tmp_path / "log"
    for make in (CSV, JSONLines):
        path.write_text("of a different run\n")
        with pytest.raises(
            RunError, match="belongs to a different run; use a different path, append=True or replace=True"
        ):
            learner().fit(1, callbacks=[make(path)])
        assert path.read_text() == "of a different run\n"
        learner().fit(1, callbacks=[make(path, replace=True)])
        assert "another" not in path.read_text()
    learner().fit(1, callbacks=[TensorBoard(tmp_path / "events")])
    with pytest.raises(RunError, match="contains events of a different run"):
        learner().fit(1, callbacks=[TensorBoard(tmp_path / "events")])


def test_resume_before_first_entry_rejects_a_different_file(tmp_path):
    stop, other = StopAt(1), tmp_path / "other"
    learner().fit(1, callbacks=[JSONLines(tmp_path / "log"), stop])
    other.write_text("of a different run\n")
    with pytest.raises(RunError, match="belongs to a different run"):
        learner().fit(1, callbacks=[JSONLines(other)], resume=stop.state)
    assert other.read_text() == "of a different run\n"


def test_resume_rejects_a_changed_file(tmp_path):
    path, stop = tmp_path / "log", StopAt(4)
    learner().fit(3, callbacks=[JSONLines(path), stop])
    right = path.read_text()
    path.write_text(right.replace('"epoch":1', '"epoch":7'))
    with pytest.raises(RunError, match="does not start with the entries at the checkpoint"):
        learner().fit(3, callbacks=[JSONLines(path)], resume=stop.state)
    path.write_text(right[:-5])
    with pytest.raises(RunError, match="does not start with the entries"):
        learner().fit(3, callbacks=[JSONLines(path)], resume=stop.state)
    path.unlink()
    with pytest.warns(UserWarning, match="is missing; its entries before the checkpoint are lost"):
        learner().fit(3, callbacks=[JSONLines(path)], resume=stop.state)
    assert [line["epoch"] for line in read_lines(path)] == [2, 3]


def test_unwritable_path_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    for make in (lambda: CSV(tmp_path / "file" / "log"), lambda: JSONLines(tmp_path)):
        with pytest.raises(RunError, match="Cannot write"):
            learner().fit(1, callbacks=[make()])
    with pytest.raises(RunError, match="Cannot write"):
        learner().fit(1, callbacks=[TensorBoard(tmp_path / "file" / "log")])


def test_missing_tensorboard_is_reported(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(RunError, match=r"TensorBoard needs tensorboard: pip install 'dashpot\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_invalid_arguments_are_rejected(tmp_path):
    for value in Interval(1, math.inf, "left", integer=True).refused():
        if value is not None:
            with pytest.raises(ArgumentError, match="CSV: every must be None or an integer in"):
                CSV(tmp_path / "log", every=value)
    with pytest.raises(ArgumentError, match="JSONLines: values must be a list of names, got the string 'lr'"):
        JSONLines(tmp_path / "log", values="lr")
    with pytest.raises(ArgumentError, match="CSV: path must be a path, got 3"):
        CSV(3)
    with pytest.raises(ArgumentError, match="TensorBoard: folder must be a path, got None"):
        TensorBoard(None)
    with pytest.raises(ArgumentError):
        learner().fit(1, callbacks=[CSV(tmp_path / "log", every=1, values=["warmth"])])
