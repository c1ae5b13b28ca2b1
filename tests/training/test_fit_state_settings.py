"""Differences between a checkpoint and a fit: the error lists them, and an override accepts them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner, problem, same, weights
from resume_support import EPOCHS, left_at
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import RunError
from dashpot.schedules import Cosine, Plateau
from dashpot.training import (
    CSV,
    EMA,
    SWA,
    Callback,
    Checkpoints,
    ClipGradients,
    EarlyStopping,
    Engine,
    JSONLines,
    Learner,
    NonFinite,
    Progress,
    Recorder,
    Schedule,
    one_cycle,
    read_newest,
)

slow = partial(pytest.param, marks=pytest.mark.slow)


def assert_rejected(make, state, message, **options):
    """Check that `fit(resume=state)` raises an error and leaves the model and the optimizer unchanged."""
    made = make()
    before = weights(made)
    with pytest.raises(RunError, match=message):
        made.fit(EPOCHS, resume=state, **options)
    assert same(before, weights(made))
    assert not made.opt.state
    assert all(p.requires_grad for p in made.model.parameters())


def test_model_differences_are_listed():
    state, _ = left_at(4)
    state["model"]["extra"] = torch.zeros(1)
    state["model"]["0.weight"] = torch.zeros(9, 4)
    state["model"]["0.bias"] = state["model"]["0.bias"].double()
    del state["model"]["1.weight"]
    found = (
        r"does not match the model: extra is only in the checkpoint; 1\.weight is only in the model; "
        r"0\.weight has shape \(9, 4\) in the checkpoint, \(8, 4\) in the model; "
        r"0\.bias has dtype torch\.float64 in the checkpoint"
    )
    assert_rejected(learner, state, found)


@pytest.mark.parametrize(
    ("saved", "current", "message"),
    [
        (learner, partial(learner, torch.optim.AdamW), "optimizer: saved dashpot.AdamW, current torch.AdamW"),
        (learner, partial(learner, dp.SGD), "optimizer: saved dashpot.AdamW, current dashpot.SGD"),
        (learner, partial(learner, lr=0.02), "lr: saved 0.01, current 0.02; pass override=True"),
        (learner, partial(learner, partial(dp.AdamW, betas=(0.5, 0.9))), r"betas: saved \(0.9, 0.999\), current \(0.5"),
        (learner, partial(learner, partial(dp.AdamW, schedule=Cosine(9))), "schedule: saved None, current .*Cosine"),
        (learner, partial(learner, partial(dp.AdamW, max_norm=1.0)), "options: saved .*, current .*max_norm=1.0"),
        (learner, lambda: learner(engine=Engine("cpu", precision="bf16")), "precision: saved fp32, current bf16"),
        (
            learner,
            partial(learner, batch_size=5),
            "must not change within an epoch differ: batches: saved 3, current 2",
        ),
        (
            lambda: learner(lambda params, lr: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.9), lr=lr))),
            lambda: learner(
                lambda params, lr: dp.SGM.from_recipe(params, dp.Recipe(dp.Filter(0.9, normalise="running"), lr=lr))
            ),
            "recipe: saved .*, current .*running",
        ),
    ],
)
def test_setting_differences_are_listed(saved, current, message):
    state, _ = left_at(4, saved)
    assert_rejected(current, state, message)


def test_optimizer_differences_are_listed():
    state, _ = left_at(4)
    half = lambda params, lr: dp.AdamW(list(params)[:3], lr=lr)  # noqa: E731
    assert_rejected(
        partial(learner, half),
        state,
        r"groups of 6 parameters, current groups of 3.* \(only saved: 1\.bias, 4\.bias, 4",
    )
    state["optimizer"]["state"]["0.weight"]["exp_avg"] = torch.zeros(2)
    assert_rejected(learner, state, "optimizer state of the checkpoint is damaged: .*exp_avg")


def test_override_uses_current_settings():
    state, first = left_at(4)
    second = learner(partial(dp.AdamW, betas=(0.9, 0.9)), lr=0.5)
    second.fit(EPOCHS, resume=state, override=True)
    [group] = second.opt.param_groups
    assert (group["lr"], group["betas"]) == (0.5, (0.9, 0.9))
    assert group["steps_done"] == 9
    assert first.opt.param_groups[0]["lr"] == 0.01


@pytest.mark.diagonal
@pytest.mark.parametrize(
    "schedule",
    [
        one_cycle,
        slow(lambda: Schedule(Cosine)),
        slow(lambda: Schedule(partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), per="epoch")),
        slow(lambda: Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0), per="epoch")),
        lambda: Schedule(Plateau(patience=0)),
        slow(lambda: Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.03))),
    ],
)
@pytest.mark.parametrize("make", [torch.optim.AdamW, dp.AdamW])
def test_overridden_setting_is_kept_with_a_schedule(make, schedule):
    stop, seen = StopAt(3), Recorder("weight_decay", "betas[1]", "betas[0]")
    learner(partial(make, weight_decay=0.01), callbacks=[schedule(), stop]).fit(2)
    other = partial(make, weight_decay=0.5, betas=(0.9, 0.9))
    resumed = learner(other, callbacks=[schedule(), seen])
    resumed.fit(2, resume=stop.state, override=True)
    assert set(seen.values["weight_decay"]) == {0.5}
    assert set(seen.values["betas[1]"]) == {0.9}
    whole = Recorder("betas[0]")
    learner(other, callbacks=[schedule(), whole]).fit(2)
    assert seen.values["betas[0]"] == whole.values["betas[0]"][3:]


def test_numpy_settings_equal_their_saved_values(tmp_path):
    def halves():
        return Schedule(partial(lr_scheduler.MultiStepLR, milestones=[2], gamma=np.float64(0.5)), per="epoch")

    learner(torch.optim.SGD, callbacks=[halves(), Checkpoints(tmp_path)]).fit(1)
    resumed = learner(torch.optim.SGD, callbacks=[halves()])
    resumed.fit(2, resume=read_newest(tmp_path))
    assert resumed.steps == 6


# ---- within an epoch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", [False, True])
def test_different_data_within_epoch_raise(override):
    stop = StopAt(4)
    learner(callbacks=[stop]).fit(2)
    given = problem()
    other = Batches(given.train.x, given.train.y, 4, shuffle=True, seed=1)
    one = Learner(given.model, other, loss=given.loss, optimizer=dp.AdamW, lr=0.01, engine=Engine("cpu"))
    with pytest.raises(RunError, match=r"data: saved Batches\(.*seed=0.*, current Batches\(.*seed=1"):
        one.fit(2, resume=stop.state, override=override)


def test_different_batch_size_within_epoch_raises():
    small_batches, stop = learner(examples=12, batch_size=4), StopAt(1)
    small_batches.fit(1, callbacks=[stop])
    with pytest.raises(RunError, match="must not change within an epoch differ: batch size: saved 4, current 5"):
        learner(examples=12, batch_size=5).fit(1, resume=stop.state, override=True)
    with pytest.raises(RunError, match="number of examples: saved 12, current 11"):
        learner(examples=11, batch_size=4).fit(1, resume=stop.state, override=True)


@pytest.mark.parametrize("batches", [3, 5])
def test_checkpoint_beyond_last_epoch_raises(batches):
    stop = StopAt(batches)
    learner(callbacks=[stop]).fit(2)
    if batches == 3:
        learner().fit(1, resume=stop.state)
    else:
        with pytest.raises(RunError, match="1 finished epochs and 2 batches of the next, got 1"):
            learner().fit(1, resume=stop.state, override=True)


# ---- callbacks ------------------------------------------------------------------------------------------------------


def test_callback_list_differences_are_listed():
    class Counts(Callback):
        count = 0

        def after_batch(self, learner):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    class Stateless(Callback):
        pass

    state, _ = left_at(4, callbacks=[Counts(), Stateless()])
    assert_rejected(learner, state, "callback Counts is only in the checkpoint")
    made = learner()
    made.fit(EPOCHS, resume=state, override=True)
    state["callbacks"].pop("Counts")
    assert_rejected(learner, state, "callback Counts is only in this fit", callbacks=[Counts()])


@pytest.mark.parametrize(
    ("saved", "current", "message"),
    [
        ([ClipGradients(norm=1.0)], [], "callback ClipGradients is only in the checkpoint"),
        slow([], [ClipGradients(norm=1.0)], "callback ClipGradients is only in this fit"),
        ([ClipGradients(norm=1.0)], [ClipGradients(norm=2.0)], "ClipGradients: norm: saved 1.0, current 2.0"),
        slow([EMA(0.9)], [EMA(0.5)], "EMA: decay: saved 0.9, current 0.5"),
        ([SWA(0)], [SWA(0, every=2)], "SWA: every: saved 1, current 2"),
        slow([NonFinite("skip")], [NonFinite("raise")], "NonFinite: then: saved skip, current raise"),
        slow([EarlyStopping()], [EarlyStopping("accuracy")], "EarlyStopping: metric: saved loss, current accuracy"),
    ],
)
def test_callback_setting_differences_are_listed(saved, current, message):
    stop = StopAt(4)
    learner(callbacks=[*saved, stop]).fit(2)
    one = learner(callbacks=current)
    before = weights(one)
    with pytest.raises(RunError, match=message):
        one.fit(2, resume=stop.state)
    assert same(before, weights(one))
    learner(callbacks=current).fit(2, resume=stop.state, override=True)


def test_observers_may_be_added_or_removed(capsys):
    torch.manual_seed(1)
    (whole := learner()).fit(2)
    torch.manual_seed(1)
    learner().fit(2, callbacks=[stop := StopAt(4), Recorder("lr")])
    (bare := learner()).fit(2, resume=stop.state)
    (other := learner()).fit(2, callbacks=[Progress()], resume=stop.state)
    assert same(weights(bare), weights(whole))
    assert same(weights(other), weights(whole))

    class Mine(Recorder):
        essential = True

    with pytest.raises(RunError, match="callback Mine is only in this fit"):
        learner().fit(2, callbacks=[Mine("lr")], resume=stop.state)


def test_early_stopping_with_overridden_metric_starts_over():
    stop, other = StopAt(6), EarlyStopping("accuracy", mode="max", patience=1)
    learner(callbacks=[EarlyStopping("loss"), stop]).fit(3)
    one = learner(callbacks=[other])
    one.fit(3, resume=stop.state, override=True)
    assert 0 <= other.best <= 1
    assert other.best_epoch >= 1


@pytest.mark.parametrize("watch", [Schedule(lambda steps: Cosine(steps + 1)), Recorder("lr")])
def test_state_rejected_by_callback_changes_nothing(watch):
    stop, first = StopAt(4), Schedule(Cosine(6)) if isinstance(watch, Schedule) else Recorder("betas[0]")
    learner(callbacks=[first, stop]).fit(2)
    one = learner(callbacks=[watch])
    one.fit(1)
    before = weights(one)
    with pytest.raises(RunError):
        one.fit(2, resume=stop.state)
    assert same(before, weights(one))


def test_rejected_resume_does_not_truncate_logs(tmp_path):
    def logs():
        return [JSONLines(tmp_path / "log.jsonl"), CSV(tmp_path / "log.csv")]

    learner(callbacks=[*logs(), Checkpoints(tmp_path / "kept", keep=None)]).fit(3)
    state = read_newest(tmp_path / "kept")
    (tmp_path / "log.csv").write_text("edited\n")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write("more\n")
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(RunError, match="does not start with the entries"):
        learner(callbacks=logs()).fit(4, resume=state)
    assert (tmp_path / "log.jsonl").read_bytes() == before
