"""Checkpoints in a folder: when they are written, which ones are kept, and which one is used for a resume."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import pytest
import torch
from learner_support import StopAt, learner, same, weights
from slow_values import others_slow

from dashpot.errors import ArgumentError, RunError
from dashpot.training import Callback, CancelBatch, CancelEpoch, CancelFit
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.checkpoints import Checkpoints, best, latest, read_newest
from dashpot.training.state import checkpoint_file


def fitted(folder, epochs=3, callbacks=(), resume=None, **options):
    torch.manual_seed(7)
    made = learner()
    made.fit(epochs, callbacks=[Checkpoints(folder, **options), *callbacks], resume=resume)
    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def positions(folder: Path) -> list[list[int]]:
    return [
        checkpoint_file.read(folder / name)["progress"]["position"] for name in names(folder) if name.endswith(".ckpt")
    ]


# ---- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [[1, 0], [2, 0], [3, 0]], marks=pytest.mark.slow),
        ({"every_epochs": 2}, [[2, 0], [3, 0]]),
        ({"every_epochs": None}, [[3, 0]]),
        pytest.param(
            {"every_steps": 2}, [[0, 2], [1, 0], [1, 1], [1, 3], [2, 0], [2, 2], [3, 0]], marks=pytest.mark.slow
        ),
        ({"every_epochs": None, "every_steps": 4}, [[1, 1], [2, 2], [3, 0]]),
        ({"every_seconds": 1e-9, "every_epochs": 2}, [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3], [2, 0]]),
    ],
)
def test_checkpoints_are_written_after_epochs_and_steps(tmp_path, options, expected):
    fitted(tmp_path, keep=None, **options)
    assert positions(tmp_path)[: len(expected)] == expected
    assert positions(tmp_path)[-1] == [3, 0]


def test_every_seconds_counts_from_the_last_checkpoint(tmp_path, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now)))  # one second per call
    fitted(tmp_path, keep=None, every_epochs=None, every_seconds=3)
    assert positions(tmp_path) == [[0, 3], [1, 3], [2, 3], [3, 0]]


def test_checkpoint_of_an_epoch_includes_its_evaluation(tmp_path):
    made = fitted(tmp_path, 2)
    state = read_newest(tmp_path)
    assert state["progress"]["history"] == made.history
    assert all(epoch.keys() == {"train", "eval"} for epoch in made.history)


def test_names_contain_steps_and_number(tmp_path):
    fitted(tmp_path, config={"lr": 0.1})
    assert names(tmp_path) == [f"step-0000000{3 * n}-0000{n}.ckpt" for n in (1, 2, 3)]
    assert torch.load(latest(tmp_path), weights_only=True)["config"] == {"lr": 0.1}


def test_checkpoints_are_written_between_accumulated_steps(tmp_path):
    fitted(tmp_path, 1, [Accumulate(2)], every_steps=1, keep=None)
    assert positions(tmp_path) == [[0, 2], [0, 3], [1, 0]]


def test_checkpoints_with_cancelled_batches_and_epochs(tmp_path):
    class Cancels(Callback):
        order = -50

        def after_backward(self, learner):
            if learner.batch.index == 2:
                raise CancelBatch

        def before_epoch(self, learner):
            if not learner.training and learner.epoch == 2:
                raise CancelEpoch

    fitted(tmp_path, 3, [Cancels(), Accumulate(2)], every_steps=1, keep=None)
    assert positions(tmp_path) == [[0, 2], [1, 0], [1, 2], [2, 0], [2, 2], [3, 0]]


def test_evaluation_only_fit_writes_nothing(tmp_path):
    made = learner()
    made.fit(1, train=False, callbacks=[Checkpoints(tmp_path)])
    assert names(tmp_path) == []


def test_fit_without_evaluation(tmp_path):
    made = learner()
    made.evaluation = None
    made.fit(2, callbacks=[Checkpoints(tmp_path, best=("loss", "min"))])
    assert positions(tmp_path) == [[1, 0], [2, 0]]
    assert best(tmp_path) == latest(tmp_path)


# ---- retention -------------------------------------------------------------------------------------------------------


class SetAccuracy(Callback):
    """Replace the evaluation accuracies in the history."""

    def __init__(self, values):
        self.values = values

    def after_epoch(self, learner):
        if not learner.training:
            learner.history[-1]["eval"]["accuracy"] = self.values[learner.epoch]


@pytest.mark.parametrize(
    ("direction", "values", "winner"),
    [
        ("max", [0.1, 0.9, 0.3, 0.4, 0.5], 2),
        pytest.param("max", [0.1, 0.9, 0.9, 0.4, 0.5], 2, marks=pytest.mark.slow),
        ("max", [float("nan"), 0.1, float("nan"), 0.0, 0.0], 2),
        pytest.param("max", [0.1, 0.2, 0.3, 0.4, 0.5], 5, marks=pytest.mark.slow),
        ("min", [0.1, 0.9, 0.3, 0.4, 0.5], 1),
    ],
)
def test_latest_and_best_checkpoints_are_kept(tmp_path, direction, values, winner):
    fitted(tmp_path, 5, [SetAccuracy(values)], keep=2, best=("accuracy", direction))
    numbers = sorted({winner, 4, 5})
    assert names(tmp_path) == ["best.json", *(f"step-000000{3 * n:02d}-0000{n}.ckpt" for n in numbers)]
    mark = json.loads((tmp_path / "best.json").read_text())
    assert mark["epoch"] == winner
    assert mark["value"] == values[winner - 1]
    assert best(tmp_path) == tmp_path / mark["file"]
    assert checkpoint_file.read(best(tmp_path))["progress"]["position"] == [winner, 0]


def test_best_epoch_is_saved_between_every_epochs(tmp_path):
    fitted(tmp_path, 5, [SetAccuracy([0.1, 0.9, 0.3, 0.4, 0.5])], keep=1, best=("accuracy", "max"), every_epochs=4)
    assert positions(tmp_path) == [[2, 0], [5, 0]]


def test_best_is_none_without_metric_or_with_nan(tmp_path):
    fitted(tmp_path, 1)
    assert best(tmp_path) is None
    fitted(tmp_path / "nan", 1, [SetAccuracy([float("nan")])], best=("accuracy", "max"))
    assert best(tmp_path / "nan") is None


def test_resumed_fit_keeps_the_best_checkpoint(tmp_path):
    accuracies, options = SetAccuracy([0.1, 0.9, 0.3, 0.4, 0.5]), {"keep": 1, "best": ("accuracy", "max")}
    fitted(tmp_path, 3, [accuracies], **options)
    fitted(tmp_path, 5, [accuracies], resume=read_newest(tmp_path), **options)
    assert positions(tmp_path) == [[2, 0], [5, 0]]
    assert best(tmp_path).name == "step-00000006-00002.ckpt"


def test_resumed_fit_restores_missing_best_json(tmp_path):
    accuracies, options = SetAccuracy([0.1, 0.9, 0.3]), {"keep": 1, "best": ("accuracy", "max")}
    fitted(tmp_path, 2, [accuracies], **options)
    (tmp_path / "best.json").unlink()
    fitted(tmp_path, 3, [accuracies], resume=read_newest(tmp_path), **options)
    assert positions(tmp_path) == [[2, 0], [3, 0]]
    assert best(tmp_path).name == "step-00000006-00002.ckpt"


def test_old_checkpoints_are_removed_after_the_new_one_exists(tmp_path, monkeypatch):
    removed, unlink = [], Path.unlink

    def recording(path, **options):
        if path.suffix == ".ckpt":
            removed.append((path.name, [checkpoint_file.read(tmp_path / name) and name for name in names(tmp_path)]))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", recording)
    fitted(tmp_path, 3, keep=1)
    one, two, three = (f"step-0000000{3 * n}-0000{n}.ckpt" for n in (1, 2, 3))
    assert removed == [(one, [one, two]), (two, [two, three])]


def test_partial_files_of_killed_runs_are_removed(tmp_path):
    mine = ".step-00000003-00001.ckpt.0123456789abcdef.part"
    for name in (mine, ".best.json.0123456789abcdef.part", ".notes.0123456789abcdef.part", "notes.txt"):
        (tmp_path / name).write_bytes(b"half")
    fitted(tmp_path, 1)
    assert names(tmp_path) == [".notes.0123456789abcdef.part", "notes.txt", "step-00000003-00001.ckpt"]


# ---- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", others_slow([[2], [3], [5], [1, 2, 4, 8]], [5]), ids=str)
def test_fit_resumed_from_newest_is_identical(tmp_path, at):
    expected = fitted(tmp_path / "whole", 3)
    state = None
    for number in [*at, None]:
        stop = [] if number is None else [StopAt(number)]
        resumed = fitted(tmp_path / "out", 3, stop, state, every_steps=1)
        state = read_newest(tmp_path / "out")
    assert same(weights(expected), weights(resumed))
    assert expected.history == resumed.history


def damage(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\x01" + whole[len(whole) // 2 + 1 :][:-100])


def test_damaged_checkpoints_are_renamed_and_the_previous_one_is_used(tmp_path):
    expected = fitted(tmp_path / "whole", 3)
    fitted(tmp_path / "out", 3)
    one, two, three = (tmp_path / "out" / name for name in names(tmp_path / "out"))
    damage(two)
    damage(three)
    with pytest.warns(UserWarning, match=r"0000\d\.ckpt is damaged.* It is renamed to .*\.damaged") as caught:
        state = read_newest(tmp_path / "out")
    assert len(caught) == 2
    assert state["progress"]["position"] == [1, 0]
    assert names(tmp_path / "out") == [one.name, f"{two.name}.damaged", f"{three.name}.damaged"]
    resumed = fitted(tmp_path / "out", 3, resume=state)
    assert same(weights(expected), weights(resumed))
    assert latest(tmp_path / "out").name == "step-00000009-00005.ckpt"  # numbers are not reused


def test_read_newest_without_intact_checkpoint_raises(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "missing") is None
    with pytest.raises(RunError, match="contains no checkpoint"):
        read_newest(tmp_path)
    with pytest.raises(RunError, match="missing contains no checkpoint"):
        read_newest(tmp_path / "missing")
    fitted(tmp_path, 1)
    damage(latest(tmp_path))
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(RunError, match=r"contains only damaged checkpoints: step-00000003-00001\.ckpt\.damaged"),
    ):
        read_newest(tmp_path)


def test_checkpoint_of_newer_format_is_rejected(tmp_path):
    fitted(tmp_path, 2)
    torch.save({"format": 3, "dashpot": "9.0.0", "state": {}}, latest(tmp_path))
    with pytest.raises(RunError, match=r"dashpot 9\.0\.0"):
        read_newest(tmp_path)
    assert len(names(tmp_path)) == 2


def test_newest_is_the_last_written(tmp_path):
    fitted(tmp_path, 3, keep=None)
    first = checkpoint_file.read(sorted(tmp_path.iterdir())[0])
    fitted(tmp_path, 2, resume=first, keep=None)
    assert latest(tmp_path).name == "step-00000006-00004.ckpt"
    assert read_newest(tmp_path)["progress"]["position"] == [2, 0]


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_folder_with_checkpoints_of_an_earlier_fit_is_rejected(tmp_path):
    fitted(tmp_path, 1)
    before = names(tmp_path)
    with pytest.raises(RunError, match=r"contains checkpoints of an earlier fit; resume it"):
        fitted(tmp_path, 1)
    assert names(tmp_path) == before


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_fails_the_fit_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    expected = fitted(tmp_path / "whole", 3)

    class Fills(Callback):
        def before_epoch(self, learner):
            if learner.epoch == 1:
                patch.setattr(os, "fsync", full)

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"Cannot write .*step-.*: No space left on dev"):
        fitted(tmp_path / "out", 3, [Fills()])
    assert names(tmp_path / "out") == ["step-00000003-00001.ckpt"]
    resumed = fitted(tmp_path / "out", 3, resume=read_newest(tmp_path / "out"))
    assert same(weights(expected), weights(resumed))


def test_unwritable_folder_is_rejected_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    seen = []

    class Watch(Callback):
        def before_batch(self, learner):
            seen.append(learner.batch.index)

    with pytest.raises(RunError, match=r"Cannot write .*file/inside"):
        fitted(tmp_path / "file" / "inside", 1, [Watch()])
    assert not seen


def test_cancelled_fit_saves_its_last_epoch(tmp_path):
    class Stops(Callback):
        order = 80

        def after_epoch(self, learner):
            if not learner.training and learner.epoch == 1:
                raise CancelFit

    fitted(tmp_path, 5, [Stops()])
    assert positions(tmp_path) == [[1, 0], [2, 0]]


def test_failed_epoch_is_not_saved(tmp_path):
    class Fails(Callback):
        def after_batch(self, learner):
            if not learner.training and learner.epoch == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, 3, [Fails()])
    assert positions(tmp_path) == [[1, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_epochs": 0}, "every_epochs must be .*got 0"),
        ({"every_steps": 1.5}, "every_steps must be .*got 1.5"),
        ({"every_seconds": 0}, "every_seconds must be .*got 0"),
        ({"keep": 0}, "keep must be .*got 0"),
        ({"best": "accuracy"}, 'best must be None or a pair of a metric and "max" or "min"'),
        ({"best": ("accuracy", "most")}, "best must be None or a pair"),
    ],
)
def test_invalid_arguments_are_rejected(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=f"Checkpoints: {message}"):
        Checkpoints(tmp_path, **options)


def test_unknown_metric_is_rejected(tmp_path):
    with pytest.raises(ArgumentError, match="best must name one of loss, accuracy, got 'f1'"):
        fitted(tmp_path / "out", best=("f1", "max"))
    assert not (tmp_path / "out").exists()
