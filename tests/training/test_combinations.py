"""Callbacks beside each other: cancellations, accumulation, averages, resumes with other settings."""

from __future__ import annotations

import copy
import errno
import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from learner_support import StopAt, learner, problem, same, weights
from torch import nn
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError, RunError
from dashpot.schedules import Cosine, Exponential, Plateau
from dashpot.tasks import Problem
from dashpot.training import (
    CSV,
    EMA,
    SWA,
    Accumulate,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
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

PLAIN = torch.optim.SGD


class At(Callback):
    """Calls a function of the learner in one event."""

    def __init__(self, event, do, order=0):
        self.order = order  # pyright: ignore[reportAttributeAccessIssue]
        setattr(self, event, do)


def raises(error, where):
    """A hook that raises where `where(learner)` holds."""

    def hook(learner):
        if where(learner):
            raise error

    return hook


def multiply_loss(made, factor):
    made.batch.loss = made.batch.loss * factor


def on_batch(*numbers):
    return lambda learner: learner.training and learner.batch.index in numbers


# ---- what one callback does to the others ----------------------------------------------------------------------------


def test_a_step_that_a_callback_leaves_out_takes_its_loss_scale_along():
    """The next step under fp16 once used gradients still multiplied by the scale."""

    class Leaves(Callback):
        order = 45

        def step(self, learner, proceed):
            if learner.batch.index != 0:
                proceed()

    def moved(precision):
        one = learner(PLAIN, lr=1e-3, engine=Engine("cpu", precision=precision))
        if precision == "fp16":
            one.engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        before = weights(one)[0]
        torch.manual_seed(0)
        one.fit(1, callbacks=[Recorder("grad_norm"), Leaves()])
        return (weights(one)[0] - before).norm().item()

    assert moved("fp16") == pytest.approx(moved("fp32"), rel=0.05)  # half precision has 11 bits


@pytest.mark.parametrize(
    "schedule",
    [
        one_cycle,
        lambda: Schedule(Cosine),
        lambda: Schedule(partial(lr_scheduler.StepLR, step_size=1, gamma=0.5), per="epoch"),
        lambda: Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0), per="epoch"),
        lambda: Schedule(Plateau(patience=0)),
        lambda: Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.03)),
    ],
)
@pytest.mark.parametrize("make", [torch.optim.AdamW, dp.AdamW])
def test_an_overridden_setting_holds_beside_a_schedule(make, schedule):
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


@pytest.mark.parametrize("first", [0, 2])
def test_a_window_whose_first_batch_is_cancelled_begins_with_its_second(tmp_path, first):
    cancels = At("before_batch", raises(CancelBatch, on_batch(first)))
    seen, shares = Recorder(), []
    note = At("after_backward", lambda made: shares.append(made.batch.loss.item() * made.batch.weight))
    learner(batch_size=2, callbacks=[Accumulate(2), cancels, seen, JSONLines(tmp_path / "log", every=1), note]).fit(1)
    expected = {0: [shares[0], shares[1] + shares[2], shares[3]], 2: [shares[0] + shares[1], shares[2], shares[3]]}
    assert seen.values["loss"] == pytest.approx(expected[first], rel=1e-6)  # sums of float32


def test_a_report_on_such_a_window_is_on_its_own_batches(tmp_path):
    cancels = At("before_batch", raises(CancelBatch, on_batch(2)))
    breaks = At("after_loss", lambda made: multiply_loss(made, torch.nan) if on_batch(3)(made) else None)
    with pytest.warns(RuntimeWarning, match="Step 2 "):
        learner(batch_size=2, callbacks=[Accumulate(2), cancels, breaks, NonFinite(folder=tmp_path)]).fit(1)
    [path] = tmp_path.glob("*.pt")
    assert [batch["batch"] for batch in torch.load(path, weights_only=True)["batches"]] == [3]


def test_the_norm_is_that_before_clipping_also_where_the_last_batch_is_cancelled():
    def norms(*more):
        seen, cancels = Recorder("grad_norm"), At("before_batch", raises(CancelBatch, on_batch(1)))
        torch.manual_seed(0)
        learner(PLAIN, lr=0.0, batch_size=2, callbacks=[Accumulate(2), seen, cancels, *more]).fit(1)
        return seen.values["grad_norm"]

    assert norms(ClipGradients(norm=1e-3)) == norms()


def test_skipping_a_step_leaves_the_wish_of_another_to_stop():
    stops = At("after_batch", lambda made: setattr(made, "stop_reason", "time is up") if on_batch(0)(made) else None)
    breaks = At("after_loss", lambda made: multiply_loss(made, torch.inf) if on_batch(1)(made) else None)
    one = learner(callbacks=[stops, breaks, NonFinite(then="skip")])
    with pytest.warns(RuntimeWarning, match="non-finite"):
        one.fit(3)
    assert (len(one.history), one.stop_reason) == (1, "time is up")


@pytest.mark.parametrize("probe", ["graph", "differences", "forward"])
def test_products_of_every_route_are_of_the_loss_that_actions_make(probe):
    """Of the routes that go through the batches again, too."""

    class Tenfold(Callback):
        def get_loss(self, learner, proceed):
            proceed()
            learner.batch.loss = learner.batch.loss * 10

    def hessian(*callbacks):
        one = learner(partial(dp.Sophia, probe=probe), lr=0.0, dtype=torch.float64, callbacks=callbacks)
        one.model[3] = nn.Identity()  # dropout would differ from pass to pass
        one.fit(1, evaluate=False)
        return torch.cat([state["hess"].flatten() for state in one.opt.state.values()])

    # Differences of gradients: a relative step of 1e-3, and rounding by 1e-16 / 1e-3.
    torch.testing.assert_close(hessian(Tenfold()), 10 * hessian(), rtol=1e-5, atol=1e-7)


def test_a_step_counts_where_a_callback_cancels_after_it():
    class Cancels(Callback):
        order = 30

        def step(self, learner, proceed):
            proceed()
            if learner.batch.index == 1:
                raise CancelBatch

    seen = Recorder()
    one = learner(callbacks=[Cancels(), seen])
    one.fit(2)
    assert one.steps == len(seen.values["loss"]) == 6


# ---- cancellations ---------------------------------------------------------------------------------------------------


def skips(phase):
    """Leaves that phase of every other epoch out before it begins."""
    return At("before_epoch", raises(CancelEpoch, lambda made: made.loop.phase == phase and made.epoch % 2 == 0))


@pytest.mark.parametrize(("phase", "evaluate"), [("eval", True), ("train", True), ("train", False)])
def test_an_epoch_whose_phase_is_left_out_counts(tmp_path, phase, evaluate):
    seen = []
    note = At("after_epoch", lambda made: seen.append(made.opt.param_groups[0]["lr"]) if made.training else None)
    parts = [skips(phase), Schedule(Exponential(0.5), per="epoch"), Checkpoints(tmp_path, keep=None), note]
    one = learner(PLAIN, lr=0.8, callbacks=[*parts, CSV(tmp_path / "log.csv")])
    one.fit(4, evaluate=evaluate)
    every = [0.8, 0.4, 0.2, 0.1]
    assert seen == (every if phase == "eval" else every[1::2])
    assert all(set(epoch) >= {"train"} for epoch in one.history)
    # An epoch without training is one to go on from, but for the very first.
    assert len(list(tmp_path.glob("step-*.ckpt"))) == (4 if phase == "eval" else 3)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("wish", [CancelBatch, CancelEpoch, CancelFit])
@pytest.mark.parametrize("cleanup", ["cleanup_batch", "cleanup_epoch", "cleanup_fit"])
def test_no_cancellation_hides_an_error(error, wish, cleanup):
    fails, wishes = At("after_loss", raises(error, on_batch(1))), At(cleanup, raises(wish, on_batch(1)))
    with pytest.raises(error):
        learner(callbacks=[fails, wishes]).fit(2)


@pytest.mark.parametrize(
    ("wish", "cleanup", "steps"),
    [
        (CancelBatch, "cleanup_batch", 6),
        (CancelEpoch, "cleanup_batch", 2),
        (CancelFit, "cleanup_batch", 1),
        (CancelEpoch, "cleanup_epoch", 6),
        (CancelFit, "cleanup_epoch", 3),
        (CancelFit, "cleanup_fit", 6),
    ],
)
def test_a_cancellation_in_a_cleanup_ends_what_is_around_it(wish, cleanup, steps):
    one = learner(callbacks=[At(cleanup, raises(wish, lambda made: made.training or cleanup == "cleanup_fit"))])
    one.fit(2)
    assert one.steps == steps


@pytest.mark.parametrize(("wish", "event"), [(CancelBatch, "before_epoch"), (CancelEpoch, "before_fit")])
def test_a_cancellation_of_what_has_not_begun_is_a_sentence(wish, event):
    with pytest.raises(RunError, match=f"{wish.__name__} must be raised within a"):
        learner(callbacks=[At(event, raises(wish, lambda _: True))]).fit(1)


# ---- states ----------------------------------------------------------------------------------------------------------


def taken(order, training):
    """The states that a callback of that order takes at the ends of phases."""
    found = []

    def take(made):
        if made.training == training:
            found.append(copy.deepcopy(made.state_dict()))

    return found, At("after_epoch", take, order)


@pytest.mark.parametrize(
    ("order", "training", "callbacks", "sentence"),
    [
        (0, False, [EMA(0.9)], "EMA has put its averages into the model"),
        (1000, True, [SWA(0)], "got the end of a training phase"),
        (0, False, [Schedule(Exponential(0.5), per="epoch")], "Schedule has not been notified of the end of the epoch"),
    ],
)
def test_no_state_is_taken_while_callbacks_are_apart(order, training, callbacks, sentence):
    _, takes = taken(order, training)
    with pytest.raises(RunError, match=sentence):
        learner(callbacks=[*callbacks, takes]).fit(2)


def test_a_function_in_place_of_a_method_is_told_as_well():
    found, takes = taken(0, training=False)
    learner(callbacks=[takes, At("after_epoch", lambda _: None, order=5)]).fit(1)
    assert len(found) == 1


def test_a_state_is_taken_once_all_are_told():
    found, takes = taken(1000, training=False)
    parts = [EMA(0.9), Schedule(Exponential(0.5), per="epoch")]
    whole = learner(callbacks=[*parts, takes])
    torch.manual_seed(3)
    whole.fit(3)
    for state in found[:2]:
        state["callbacks"].pop("At", None)
        resumed = learner(callbacks=parts)
        resumed.fit(3, resume=state)
        assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("more", [[], [EMA(0.9, keep=False)]])
def test_weights_put_back_are_no_state_to_go_on_from(more):
    one = learner(callbacks=[EarlyStopping("accuracy", mode="max", restore_best=True), *more])
    one.fit(2)
    with pytest.raises(RunError, match=r"EarlyStopping has put the weights of epoch \d into the model"):
        one.state_dict()


def test_early_stopping_forgets_what_it_measured_of_something_else():
    stop, other = StopAt(6), EarlyStopping("accuracy", mode="max", patience=1)
    learner(callbacks=[EarlyStopping("loss"), stop]).fit(3)
    one = learner(callbacks=[other])
    one.fit(3, resume=stop.state, override=True)
    assert 0 <= other.best <= 1
    assert other.best_epoch >= 1


@pytest.mark.parametrize(
    ("there", "here", "sentence"),
    [
        ([ClipGradients(norm=1.0)], [], "callback ClipGradients is only in the checkpoint"),
        ([], [ClipGradients(norm=1.0)], "callback ClipGradients is only in this fit"),
        ([ClipGradients(norm=1.0)], [ClipGradients(norm=2.0)], "ClipGradients: norm: saved 1.0, current 2.0"),
        ([EMA(0.9)], [EMA(0.5)], "EMA: decay: saved 0.9, current 0.5"),
        ([SWA(0)], [SWA(0, every=2)], "SWA: every: saved 1, current 2"),
        ([NonFinite("skip")], [NonFinite("raise")], "NonFinite: then: saved skip, current raise"),
        ([EarlyStopping()], [EarlyStopping("accuracy")], "EarlyStopping: metric: saved loss, current accuracy"),
    ],
)
def test_other_settings_of_callbacks_are_listed_and_refused(there, here, sentence):
    stop = StopAt(4)
    learner(callbacks=[*there, stop]).fit(2)
    one = learner(callbacks=here)
    before = weights(one)
    with pytest.raises(RunError, match=sentence):
        one.fit(2, resume=stop.state)
    assert same(before, weights(one))
    learner(callbacks=here).fit(2, resume=stop.state, override=True)


@pytest.mark.parametrize("override", [False, True])
def test_the_rest_of_an_epoch_is_of_the_same_order(override):
    stop = StopAt(4)
    learner(callbacks=[stop]).fit(2)
    given = problem()
    other = Batches(given.train.x, given.train.y, 4, shuffle=True, seed=1)
    one = Learner(given.model, other, loss=given.loss, optimizer=dp.AdamW, lr=0.01, engine=Engine("cpu"))
    with pytest.raises(RunError, match=r"data: saved Batches\(.*seed=0.*, current Batches\(.*seed=1"):
        one.fit(2, resume=stop.state, override=override)


@pytest.mark.parametrize("watch", [Schedule(lambda steps: Cosine(steps + 1)), Recorder("lr")])
def test_a_state_that_a_callback_refuses_changes_nothing(watch):
    stop, first = StopAt(4), Schedule(Cosine(6)) if isinstance(watch, Schedule) else Recorder("betas[0]")
    learner(callbacks=[first, stop]).fit(2)
    one = learner(callbacks=[watch])
    one.fit(1)
    before = weights(one)
    with pytest.raises(RunError):
        one.fit(2, resume=stop.state)
    assert same(before, weights(one))


def test_a_refused_resume_cuts_no_log(tmp_path):
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


@pytest.mark.parametrize("kind", [JSONLines, CSV])
def test_a_log_that_pauses_keeps_its_lines(tmp_path, kind):
    """Also where the run is killed right after it went on, and goes on from the checkpoint before that."""

    def fit(epochs, *logs, resume=None):
        kept = Checkpoints(tmp_path / "kept")
        learner(callbacks=[*logs, kept]).fit(epochs, resume=resume)
        return read_newest(tmp_path / "kept")

    def log():
        return kind(tmp_path / "log", append=True)

    state = fit(2, log())
    state = fit(3, resume=state)
    stops = At("after_batch", raises(KeyboardInterrupt, on_batch(1)))
    with pytest.raises(KeyboardInterrupt):
        fit(4, log(), Checkpoints(tmp_path / "first", every_steps=1), stops, resume=state)
    fit(4, log(), resume=read_newest(tmp_path / "first"))
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("epoch")]
    assert [json.loads(f"[{line}]")[0] if kind is CSV else json.loads(line)["epoch"] for line in lines] == [1, 2, 4]


def test_a_terminal_that_is_gone_does_not_end_the_fit():
    class Gone(io.StringIO):
        def write(self, text):
            if "1 " in text:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    one = learner(callbacks=[Progress(Gone())])
    one.fit(3)
    assert one.steps == 9


@pytest.mark.parametrize("batches", [3, 5])
def test_a_state_from_within_an_epoch_too_many_is_refused(batches):
    stop = StopAt(batches)
    learner(callbacks=[stop]).fit(2)
    if batches == 3:
        learner().fit(1, resume=stop.state)
    else:
        with pytest.raises(RunError, match="1 finished epochs and 2 batches of the next, got 1"):
            learner().fit(1, resume=stop.state, override=True)


def test_a_refused_fit_leaves_the_last_one_as_it_was():
    given = problem()
    opt = dp.AdamW(given.model.parameters(), lr=0.01)
    one = Learner.of(given, opt, engine=Engine("cpu"))
    one.fit(2)
    state = one.state_dict()
    with pytest.raises(ArgumentError, match="lr must be None if optimizer is an instance"):
        one.fit(3, lr=0.5)
    assert one.state_dict()["progress"] == state["progress"]


def test_a_factor_of_numpys_is_the_same_after_a_file(tmp_path):
    def halves():
        return Schedule(partial(lr_scheduler.MultiStepLR, milestones=[2], gamma=np.float64(0.5)), per="epoch")

    learner(PLAIN, callbacks=[halves(), Checkpoints(tmp_path)]).fit(1)
    resumed = learner(PLAIN, callbacks=[halves()])
    resumed.fit(2, resume=read_newest(tmp_path))
    assert resumed.steps == 6


# ---- averages over epochs --------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Wants two arguments."""

    def __init__(self):
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, a, b):
        return self.last(self.norm(a + b))


@pytest.mark.parametrize("evaluate", [True, False])
def test_statistics_are_of_what_callbacks_give_the_model(evaluate):
    """Data that `before_batch` divides are measured as data that are divided beforehand; `predict` is gone through."""

    class Divides(Callback):
        def before_batch(self, learner):
            learner.batch.x = learner.batch.x / 64

    class Predicts(Callback):
        def predict(self, learner, proceed):
            learner.batch.output = learner.forward(learner.batch.x, learner.batch.x * 0)

    def statistics(scale, *callbacks):
        given = problem(examples=12)
        torch.manual_seed(0)
        train = Batches(given.train.x * scale, given.train.y, 4, shuffle=True)
        made = Problem(Two(), train, given.loss, Batches(given.train.x * scale, given.train.y, 12), {})
        one = Learner.of(made, PLAIN, lr=0.1, engine=Engine("cpu"), callbacks=[SWA(0), Predicts(), *callbacks])
        one.fit(2, evaluate=evaluate)
        return one.model.norm.running_var

    torch.testing.assert_close(statistics(1.0, Divides()), statistics(1 / 64), rtol=0, atol=0)  # a power of two


def test_statistics_of_a_finished_run_are_of_its_last_epoch(tmp_path):
    given = problem(examples=12)
    train = Batches(given.train.x, given.train.y, 4, seed=1, augment=lambda x, _: x + 5, augment_from=1)

    def made(*callbacks):
        shape = {"loss": given.loss, "optimizer": PLAIN, "lr": 0.1, "engine": Engine("cpu")}
        return Learner(copy.deepcopy(given.model), train, callbacks=[SWA(0), *callbacks], **shape)

    whole, resumed = made(Checkpoints(tmp_path)), made()
    torch.manual_seed(2)
    whole.fit(3)
    resumed.fit(3, resume=read_newest(tmp_path))
    assert same(weights(whole), weights(resumed))


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"callbacks": Recorder("lr")}, "callbacks must be a list of callbacks, got <.*Recorder"),
        ({"metrics": [len]}, "metrics must be a mapping of names to functions of \\(output, y\\), got \\[<"),
        ({"metrics": {1: len}}, "metrics must be a mapping of names"),
        ({"loss": "ce"}, "loss must be a function of \\(output, y\\), got 'ce'"),
        ({"evaluation_loss": 3}, "evaluation_loss must be a function"),
    ],
)
def test_arguments_of_the_wrong_kind_are_a_sentence(options, sentence):
    given = problem()
    with pytest.raises(ArgumentError, match=sentence):
        Learner(given.model, given.train, **{"loss": given.loss, "optimizer": dp.AdamW, **options})


def test_callbacks_of_a_fit_are_a_list():
    with pytest.raises(ArgumentError, match="callbacks must be a list of callbacks"):
        learner().fit(1, callbacks=Recorder("lr"))  # pyright: ignore[reportArgumentType]


def test_a_batch_without_rows_cannot_be_shared():
    from dashpot.training.distributed.data_sharding import slice_rows

    with pytest.raises(ArgumentError, match="must have a batch dimension, got a 0-d tensor"):
        slice_rows((torch.zeros(3), torch.tensor(1.0)), slice(0, 1))
