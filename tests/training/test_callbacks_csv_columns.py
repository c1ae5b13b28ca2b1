"""Columns of CSV logs: rows stay under their own header if metrics, `every` or `values` change."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from learner_support import At, StopAt, call_if, learner, problem
from slow_values import others_slow

import dashpot as dp
from dashpot.errors import RunError
from dashpot.training import CSV, Callback, Engine, Learner
from dashpot.training.callbacks.csv_columns import add_columns, first_columns


def error_rate(output, y):
    return (output.argmax(dim=1) != y).sum()


def learner_with(**metrics) -> Learner:
    """Return a learner whose problem has other metrics than accuracy."""
    return Learner.of(replace(problem(), metrics=metrics), dp.AdamW, lr=0.01, engine=Engine("cpu"))


def rows_of(path) -> list[dict[str, str]]:
    """Return the rows by column, after checking that each has as many cells as the header."""
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert {len(row) for row in rows} <= {len(header)}
    return [dict(zip(header, row, strict=True)) for row in rows]


class StateAfter(Callback):
    """Keep the state after an epoch."""

    order = 90

    def __init__(self, epoch):
        self.epoch, self.state = epoch, None

    def cleanup_epoch(self, learner):
        if not learner.training and learner.epoch == self.epoch:
            self.state = learner.state_dict()
            self.state["callbacks"].pop("StateAfter")


def test_changed_metrics_on_resume_extend_the_header(tmp_path):
    path, kept = tmp_path / "log.csv", StateAfter(0)
    learner().fit(1, callbacks=[CSV(path), kept])
    first = rows_of(path)
    one = learner_with(error=error_rate)
    one.fit(2, callbacks=[CSV(path)], resume=kept.state, override=True)
    before, after = rows_of(path)
    assert list(before) == [*first[0], "train_error", "eval_error"]
    assert {name: before[name] for name in first[0]} == first[0]
    assert (before["train_error"], before["eval_error"]) == ("", "")
    means = one.history[1]
    assert (float(after["train_error"]), float(after["eval_loss"])) == (means["train"]["error"], means["eval"]["loss"])
    assert (after["train_accuracy"], after["eval_accuracy"]) == ("", "")


@pytest.mark.parametrize(
    ("first", "second", "added"),
    [
        ({}, {"every": 1}, ["kind", "loss"]),
        ({"every": 1}, {}, []),
        ({"every": 1}, {"every": 2, "values": ("lr", "betas[1]")}, ["betas[1]"]),
        ({"every": 1, "values": ("betas[1]",)}, {"every": 1, "values": ("grad_norm",)}, ["grad_norm"]),
    ],
)
def test_changed_every_or_values_on_resume_extend_the_header(tmp_path, first, second, added):
    path, kept = tmp_path / "log.csv", StateAfter(0)
    learner().fit(1, callbacks=[CSV(path, **first), kept])
    begun = rows_of(path)
    one, whole = learner(), CSV(tmp_path / "second.csv", **second)
    one.fit(2, callbacks=[CSV(path, **second), whole], resume=kept.state)
    rows = rows_of(path)
    assert list(rows[0]) == [*begun[0], *added]
    for row, old in zip(rows, begun, strict=False):
        assert row == {**dict.fromkeys(added, ""), **({"kind": "epoch"} if "kind" in added else {}), **old}
    later = rows_of(tmp_path / "second.csv")
    assert len(rows) == len(begun) + len(later)
    for row, expected in zip(rows[len(begun) :], later, strict=True):
        expected = {"kind": "epoch", **expected, "seconds": row["seconds"]}
        assert {name: cell for name, cell in row.items() if cell} == {
            n: c for n, c in expected.items() if c and n in row
        }


@pytest.mark.parametrize("at", others_slow([4, 8], 4))
def test_resume_from_a_checkpoint_before_an_added_column(tmp_path, at):
    """The name appears in epoch 2 of 3; the checkpoint was taken before or after."""

    def log_late(one):
        if one.loop.phase == "eval":
            one.history[one.epoch]["eval"]["a,b"] = 0.25 * one.epoch

    def late():
        return At("after_epoch", call_if(log_late, lambda one: one.epoch >= 1))

    def seconds_removed(path):
        return [{**row, "seconds": ""} for row in rows_of(path)]

    torch.manual_seed(7)
    learner().fit(3, callbacks=[late(), CSV(tmp_path / "whole.csv", every=2)])
    stop = StopAt(at)
    hook = stop.after_batch
    stop.after_batch = lambda one: _without_cancel(hook, one)  # continues, like a fit that is killed later
    torch.manual_seed(7)
    learner().fit(3, callbacks=[late(), CSV(tmp_path / "cut.csv", every=2), stop])
    for _ in range(2):
        learner(seed=0).fit(3, callbacks=[late(), CSV(tmp_path / "cut.csv", every=2)], resume=stop.state)
        assert seconds_removed(tmp_path / "cut.csv") == seconds_removed(tmp_path / "whole.csv")
    assert [row["eval_a,b"] for row in rows_of(tmp_path / "cut.csv") if row["kind"] == "epoch"] == ["", "0.25", "0.5"]


def _without_cancel(hook, one):
    from dashpot.training import CancelFit

    try:
        hook(one)
    except CancelFit:
        return


def test_append_to_a_file_with_other_columns(tmp_path):
    path = tmp_path / "log.csv"
    learner().fit(1, callbacks=[CSV(path)])
    learner_with(error=error_rate).fit(1, callbacks=[CSV(path, append=True, every=3)])
    rows = rows_of(path)
    assert [row["kind"] for row in rows] == ["epoch", "step", "epoch"]
    assert [bool(row["train_error"]) for row in rows] == [False, False, True]
    assert [bool(row["train_accuracy"]) for row in rows] == [True, False, False]


def test_append_to_a_file_that_is_not_a_log_is_rejected_unchanged(tmp_path):
    path = tmp_path / "log.csv"
    for content in ("name,score\na,1\n", '{"kind":"epoch"}\n', "a\x00b\n", '"open\n'):
        path.write_text(content)
        with pytest.raises(RunError, match=r"columns epoch and step, such as 'epoch,step,train_loss,.*', got '"):
            learner().fit(1, callbacks=[CSV(path, append=True)])
        assert path.read_text() == content
    path.write_bytes(header := b"epoch,step\n\xff\n")
    with pytest.raises(RunError, match=r"must be a CSV file, to which train_loss, .*, seconds can be added"):
        learner().fit(1, callbacks=[CSV(path, append=True)])
    assert path.read_bytes() == header


def test_state_of_earlier_versions_without_columns_resumes(tmp_path):
    path, kept = tmp_path / "log.csv", StateAfter(0)
    learner().fit(1, callbacks=[CSV(path), kept])
    del kept.state["callbacks"]["CSV"]["columns"]
    learner().fit(2, callbacks=[CSV(path)], resume=kept.state)
    assert [row["epoch"] for row in rows_of(path)] == ["1", "2"]


def test_columns_are_added_and_removed_exactly():
    content = b'step,"a,b",c\n1,-0.5,nan\n2,"x""y",\n'
    wide = add_columns(content, ["d", "e"])
    assert wide == b'step,"a,b",c,d,e\n1,-0.5,nan,,\n2,"x""y",,,\n'
    for length in range(len(content) + 1):
        assert first_columns(wide, ["step", "a,b", "c"], length) == content[:length]
    assert first_columns(wide, ["step", "z"], 5) == wide[:5]
