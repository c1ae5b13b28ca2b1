"""Loggers in fits by steps, with data without a length, and with several optimizers."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from interval_support import UnsizedStream
from learner_support import StopAt, learner
from test_learner_optimizers import LOSSES, RATES, reference
from test_learner_optimizers import learner as gan_learner
from torch import nn

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.training import CSV, CancelFit, Engine, ForOptimizer, JSONLines, Learner, Progress, Recorder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def unsized_learner():
    torch.manual_seed(3)
    model = nn.Linear(4, 3)
    return Learner(
        model, UnsizedStream(), loss=nn.functional.cross_entropy, optimizer=dp.AdamW, lr=0.01, engine=Engine("cpu")
    )


# ---- fits by steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [learner, unsized_learner])
def test_entries_of_a_fit_by_steps(make, tmp_path):
    one, recorder = make(), Recorder()
    logs = [CSV(tmp_path / "log.csv", every=3), JSONLines(tmp_path / "log.jsonl", every=3)]
    progress = Progress(io.StringIO(), plot=True)
    one.fit(steps=7, evaluate_every=2, callbacks=[*logs, recorder, progress])
    assert len(one.history) == 4
    entries = [(line["kind"], line["epoch"], line["step"]) for line in lines_of(tmp_path / "log.jsonl")]
    assert entries == [
        *(("epoch", 1, 2), ("step", 2, 3), ("epoch", 2, 4)),
        *(("step", 3, 6), ("epoch", 3, 6), ("epoch", 4, 7)),
    ]
    rows = rows_of(tmp_path / "log.csv")
    assert [(row["kind"], int(row["epoch"]), int(row["step"])) for row in rows] == entries
    assert [float(row["loss"]) for row in rows if row["kind"] == "step"] == recorder.values["loss"][2::3]
    means = [float(row["train_loss"]) for row in rows if row["kind"] == "epoch"]
    assert means == [epoch["train"]["loss"] for epoch in one.history]
    assert progress._curve.train == list(enumerate(recorder.values["loss"], 1))
    assert progress.stream.getvalue().splitlines()[-1].split() == ["0", "step", "7"]


def test_resumed_log_of_a_fit_by_steps_equals_uninterrupted_log(tmp_path):
    def fitted(name, callbacks=(), **options):
        one = learner(callbacks=[JSONLines(tmp_path / name, every=2)])
        one.fit(steps=8, evaluate_every=5, callbacks=callbacks, **options)

    torch.manual_seed(7)
    fitted("whole")
    torch.manual_seed(7)
    stop = StopAt(4)
    hook = stop.after_batch

    def save_and_continue(one):
        try:
            hook(one)
        except CancelFit:
            return

    stop.after_batch = save_and_continue
    fitted("cut", [stop])
    fitted("cut", resume=stop.state)
    whole, cut = (lines_of(tmp_path / name) for name in ("whole", "cut"))
    assert [{**line, "seconds": 0} for line in cut] == [{**line, "seconds": 0} for line in whole]


# ---- several optimizers ---------------------------------------------------------------------------------------------


def test_step_entries_have_the_values_of_every_optimizer(tmp_path):
    _, losses = reference(epochs=2)
    fitted = gan_learner()
    logs = [CSV(tmp_path / "log.csv", every=2), JSONLines(tmp_path / "log.jsonl", every=1, values=["lr", "betas[1]"])]
    fitted.fit(2, callbacks=logs)
    steps = [line for line in lines_of(tmp_path / "log.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for line, row in zip(steps, losses, strict=True):
        assert list(line)[3:] == [
            *("loss", "loss_discriminator", "lr_discriminator", "betas[1]_discriminator"),
            *("loss_generator", "lr_generator", "betas[1]_generator"),
        ]
        assert line["loss"] == pytest.approx(sum(row.values()), rel=1e-6)  # float32
        for name, rate in RATES.items():
            assert (line[f"lr_{name}"], line[f"betas[1]_{name}"]) == (rate, 0.999)
            assert line[f"loss_{name}"] == pytest.approx(row[name], rel=1e-6)
    rows = rows_of(tmp_path / "log.csv")
    assert [row["kind"] for row in rows] == ["step", "epoch", "step", "step", "epoch"]
    assert [float(row["loss_generator"]) for row in rows if row["kind"] == "step"] == pytest.approx(
        [row["generator"] for row in losses[1::2]], rel=1e-6
    )
    epoch = rows[-1]
    assert float(epoch["train_loss_generator"]) == fitted.history[-1]["train"]["loss_generator"]
    assert float(epoch["train_lr_generator"]) == RATES["generator"]


def test_unbound_recorder_and_curve_have_the_sum_of_the_losses():
    _, losses = reference(epochs=2)
    totals = [sum(row.values()) for row in losses]
    recorder, progress = Recorder(number=lambda one: one.steps), Progress(io.StringIO(), plot=True)
    bound = Recorder("lr")
    gan_learner().fit(2, callbacks=[recorder, progress, ForOptimizer("generator", bound)])
    assert recorder.values["loss"] == pytest.approx(totals, rel=1e-6)  # float32
    assert recorder.values["number"] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in progress._curve.train] == [1, 2, 3, 4, 5, 6]
    assert [loss for _, loss in progress._curve.train] == recorder.values["loss"]
    assert bound.values["loss"] == pytest.approx([row["generator"] for row in losses], rel=1e-6)


@pytest.mark.parametrize("name", ["lr", "grad_norm", "state:exp_avg"])
def test_unbound_recorder_of_one_optimizer_is_rejected(name):
    with pytest.raises(ArgumentError, match=r"bind a callback to one with ForOptimizer\('discriminator', callback\)"):
        gan_learner().fit(1, callbacks=[Recorder(name)])


def test_step_without_one_of_the_optimizers_has_its_other_values(tmp_path):
    class Skip(Recorder):
        order = -1

        def step(self, learner, proceed):
            if learner.steps != 1:
                proceed()

    gan_learner().fit(1, callbacks=[ForOptimizer("generator", Skip()), JSONLines(tmp_path / "log", every=1)])
    steps = [line for line in lines_of(tmp_path / "log") if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert ["lr_generator" in line for line in steps] == [True, False, True]
    assert all(f"lr_{name}" in steps[0] for name in LOSSES)
