"""Runs that are stopped, killed, refused or damaged at awkward moments: nothing is lost, and nothing goes on askew."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from functools import partial
from typing import Any

import pytest
import torch
from learner_support import learner, same, weights
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot.comparison import Interrupted
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.signals import TERMINATION_SIGNALS, interruptible
from dashpot.schedules import Cosine, Exponential, OneCycleMomentum, Plateau
from dashpot.training import Callback, CancelEpoch, CancelFit, Engine, Learner
from dashpot.training.callbacks.checkpoints import Checkpoints, latest, read_newest
from dashpot.training.callbacks.run_log import RunLog
from dashpot.training.callbacks.schedule import Schedule, one_cycle
from dashpot.training.run.run import resume, start
from dashpot.training.run.settings import Settings

PLAIN: Any = torch.optim.SGD
TASK = """
import torch
from torch import nn
from dashpot.data import Batches
from dashpot.tasks import Problem, Task, accuracy

def build():
    def problem(seed):
        draw = torch.Generator().manual_seed(seed)
        x, y = torch.randn(12, 4, generator=draw), torch.randint(0, 3, (12,), generator=draw)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
        train = Batches(x, y, 4, shuffle=True, seed=seed)
        return Problem(model, train, nn.functional.cross_entropy, Batches(x, y, 12), {"accuracy": accuracy})
    return Task("small", problem, epochs=3)
"""


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Three epochs of three steps."""
    path = tmp_path / "small.py"
    path.write_text(TASK)
    return Settings(task=f"{path}:build", optimizer="adamw", lr=0.05, threads=1, accelerator="cpu")


def quiet(_: str) -> None:
    """Says nothing."""


def files(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def at_step(monkeypatch, number: int, action) -> None:
    """Let `action` happen in the middle of that step, the first being 0."""
    step = Learner.step

    def changed(self):
        if self.steps == number:
            action()
        step(self)

    monkeypatch.setattr(Learner, "step", changed)


def stopped(settings, folder, monkeypatch, number: int, sent: int = signal.SIGINT) -> Interrupted:
    """Begin a run that is asked to stop in that step."""
    with monkeypatch.context() as patch:
        at_step(patch, number, lambda: os.kill(os.getpid(), sent))
        with pytest.raises(Interrupted) as stop:
            start(settings, folder, write_line=quiet)
    return stop.value


# ---- an epoch whose end was not told to all --------------------------------------------------------------------------


class Rates(Callback):
    """The rate of every epoch's first step."""

    def __init__(self):
        self.rates = []

    def before_batch(self, learner):
        if learner.training and learner.batch.index == 0:
            self.rates.append(learner.opt.param_groups[0]["lr"])


class Raises(Callback):
    """Raises at the end of the evaluation of one epoch."""

    def __init__(self, error: type[BaseException], epoch: int, order: int = 45):
        self.error, self.epoch, self.order = error, epoch, order  # pyright: ignore[reportAttributeAccessIssue]

    def after_epoch(self, learner):
        if not learner.training and learner.epoch == self.epoch:
            raise self.error


def halving(folder, *more, epochs=4, resume=None):
    made, rates = learner(PLAIN, lr=0.1), Rates()
    callbacks = [Schedule(Exponential(0.5), per="epoch"), Checkpoints(folder), rates, *more]
    torch.manual_seed(5)
    made.fit(epochs, callbacks=callbacks, resume=resume)
    return made, rates.rates


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_epoch_whose_end_a_schedule_has_missed_is_done_again(tmp_path, error):
    whole, rates = halving(tmp_path / "whole")
    assert rates == [0.1, 0.05, 0.025, 0.0125]
    with pytest.raises(error):
        halving(tmp_path / "cut", Raises(error, 2))
    state = read_newest(tmp_path / "cut")
    assert state["progress"]["position"] == [2, 0]
    resumed, rates = halving(tmp_path / "cut", resume=state)
    assert rates == [0.025, 0.0125]
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("schedule", [Exponential(0.5), Plateau(0.5, patience=0, threshold=10)])
def test_an_epoch_at_whose_end_the_fit_is_cancelled_counts_for_its_schedule(tmp_path, schedule):
    """Also where the callback that cancels it comes before the schedule."""

    def fit(folder, *more, resume=None):
        made, rates = learner(PLAIN, lr=0.1), Rates()
        callbacks = [Schedule(schedule, per="epoch"), Checkpoints(folder), rates, *more]
        torch.manual_seed(5)
        made.fit(4, callbacks=callbacks, resume=resume)
        return made, rates.rates

    whole, rates = fit(tmp_path / "whole")
    assert len(set(rates)) > 2
    fit(tmp_path / "cut", Raises(CancelFit, 2))
    state = read_newest(tmp_path / "cut")
    assert state["progress"]["position"] == [3, 0]
    resumed, [rate] = fit(tmp_path / "cut", resume=state)
    assert rate == rates[3]
    assert same(weights(whole), weights(resumed))


def test_an_error_that_comes_after_the_checkpoints_were_told_loses_no_epoch(tmp_path):
    with pytest.raises(ZeroDivisionError):
        halving(tmp_path, Raises(ZeroDivisionError, 2, order=91))
    assert read_newest(tmp_path)["progress"]["position"] == [3, 0]


@pytest.mark.parametrize(("wish", "position"), [(CancelFit, [2, 0]), (CancelEpoch, [4, 0])])
def test_an_epoch_that_ends_on_purpose_is_saved_also_while_an_error_is_handled(tmp_path, wish, position):
    try:
        {}[0]
    except KeyError:
        halving(tmp_path, Raises(wish, 1), epochs=4)
    assert read_newest(tmp_path)["progress"]["position"] == position


@pytest.mark.parametrize("phase", ["train", "eval"])
@pytest.mark.parametrize("evaluate", [True, False])
def test_an_epoch_cut_short_on_purpose_moves_a_schedule_of_epochs_once(phase, evaluate):
    class Cuts(Callback):
        def before_batch(self, learner):
            if (
                learner.loop.phase == phase
                and learner.epoch == 1
                and learner.batch.index == (1 if phase == "train" else 0)
            ):
                raise CancelEpoch

    made, rates = learner(PLAIN, lr=0.1), Rates()
    made.fit(4, callbacks=[Schedule(Exponential(0.5), per="epoch"), Cuts(), rates], evaluate=evaluate)
    assert rates.rates == [0.1, 0.05, 0.025, 0.0125]


def test_a_plateau_has_nothing_to_look_at_in_an_epoch_cut_short():
    class Cuts(Callback):
        def before_epoch(self, learner):
            if not learner.training and learner.epoch == 1:
                raise CancelEpoch

    plateau = Schedule(Plateau(patience=9))
    made, kept = learner(PLAIN, lr=0.1), []

    class Keeps(Callback):
        def after_fit(self, learner):
            kept.extend(plateau.state_dict()["measured"])

    made.fit(3, callbacks=[plateau, Cuts(), Keeps()])
    assert len(kept) == 2


# ---- two schedules ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        (one_cycle, lambda: Schedule(partial(lr_scheduler.StepLR, step_size=1)), "lr"),
        (lambda: Schedule(Plateau()), lambda: Schedule(Cosine), "lr"),
        (lambda: Schedule({"momentum": Exponential(0.9)}), lambda: Schedule({"betas[0]": Exponential(0.5)}), "betas"),
        (
            lambda: Schedule(partial(lr_scheduler.OneCycleLR, max_lr=0.1)),
            lambda: Schedule({"momentum": Exponential(0.9)}),
            "betas",
        ),
    ],
)
def test_two_schedules_of_one_hyperparameter_are_refused_and_leave_it_as_it_was(one, other, name):
    model = torch.nn.Linear(4, 3)
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)
    before = {key: value for key, value in opt.param_groups[0].items() if key != "params"}
    data = [(torch.ones(2, 4), torch.zeros(2, dtype=torch.long))]
    made = Learner(model, data, loss=torch.nn.functional.cross_entropy, optimizer=opt, engine=Engine("cpu"))
    with pytest.raises(ArgumentError, match=rf"Schedule: {name}\S* has two schedules"):
        made.fit(1, callbacks=[one(), other()])
    assert {key: value for key, value in opt.param_groups[0].items() if key != "params"} == before


def test_schedules_of_different_hyperparameters_go_together_and_both_are_put_back():
    model = torch.nn.Linear(4, 3)
    opt = torch.optim.AdamW(model.parameters(), lr=0.1)
    data = [(torch.ones(2, 4), torch.zeros(2, dtype=torch.long))] * 4
    made = Learner(model, data, loss=torch.nn.functional.cross_entropy, optimizer=opt, engine=Engine("cpu"))
    rate = Schedule(partial(lr_scheduler.LinearLR, start_factor=0.25, total_iters=2))
    for _ in range(2):  # of the same Schedule objects as well
        made.fit(1, callbacks=[rate, Schedule(lambda n: {"momentum": OneCycleMomentum(n)})])
        assert (opt.param_groups[0]["lr"], opt.param_groups[0]["betas"]) == (0.1, (0.9, 0.999))


# ---- overriding ------------------------------------------------------------------------------------------------------


def test_an_override_that_is_refused_changes_nothing(settings, tmp_path, monkeypatch):
    whole = start(settings, tmp_path / "whole", write_line=quiet).run
    stopped(settings, tmp_path / "run", monkeypatch, 4)  # in the middle of an epoch, which cannot change its windows
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match="must not change within an epoch differ: accumulate"):
        resume(tmp_path / "run", {"accumulate": 2}, override=True, write_line=quiet)
    assert files(tmp_path / "run") == before
    assert resume(tmp_path / "run", write_line=quiet).run.loss == whole.loss


def test_a_finished_run_keeps_its_settings_where_fewer_epochs_are_refused(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match="3 finished epochs"):
        resume(tmp_path / "run", {"epochs": 2}, override=True, write_line=quiet)
    assert files(tmp_path / "run") == before


def test_settings_that_leave_nothing_to_do_are_written_all_the_same(settings, tmp_path):
    start(settings, tmp_path / "run", write_line=quiet)
    assert resume(tmp_path / "run", {"keep": 2}, override=True, write_line=quiet).status == "done"
    assert "keep = 2" in (tmp_path / "run" / "run.toml").read_text()
    assert "keep = 3" in (tmp_path / "run" / "run-1.toml").read_text()


@pytest.mark.parametrize("at", [2, 4], ids=["an epoch's end", "within an epoch"])
def test_a_kill_right_after_an_accepted_override_needs_no_second_one(settings, tmp_path, monkeypatch, at):
    """To the bits of the run that was not killed then."""
    stopped(settings, tmp_path / "whole", monkeypatch, at)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    change = {"lr": 0.01, "set": {"weight_decay": 0.5}}
    whole = resume(tmp_path / "whole", change, override=True, write_line=quiet).run

    def die(self, learner):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "after_backward", die, raising=False)
        with pytest.raises(SystemExit):
            resume(tmp_path / "cut", change, override=True, write_line=quiet)
    run = resume(tmp_path / "cut", write_line=quiet).run
    assert (run.loss, run.lr, run.epochs[-1]["eval"]) == (whole.loss, whole.lr, whole.epochs[-1]["eval"])
    assert run.lr == [0.05] * (at + 1) + [0.01] * (8 - at)


def test_a_log_that_was_off_for_a_while_keeps_its_lines(settings, tmp_path, monkeypatch):
    def goes_on(number, **change):
        with monkeypatch.context() as patch:
            at_step(patch, number, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(Interrupted):
                resume(tmp_path / "run", change, override=True, write_line=quiet)

    stopped(dataclasses.replace(settings, log=("csv", "tensorboard")), tmp_path / "run", monkeypatch, 4)
    goes_on(6, log=("jsonl",))
    goes_on(7, log=("csv", "jsonl", "tensorboard"))
    assert resume(tmp_path / "run", write_line=quiet).status == "done"
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "3"]


def test_a_refusal_names_the_option_of_the_command(settings, tmp_path, monkeypatch):
    from dashpot.training.run import run

    stopped(settings, tmp_path / "run", monkeypatch, 4)
    monkeypatch.setattr(run.RunPlan, "optimizer", lambda self, params: dp.SGD(params, lr=0.1))
    with pytest.raises(RunError, match="pass --override to use the current ones") as refusal:
        resume(tmp_path / "run", write_line=quiet)
    assert "override=True" not in str(refusal.value)
    assert "Resume with" not in str(refusal.value)


# ---- signals and errors ----------------------------------------------------------------------------------------------


@pytest.fixture
def hangup_is_heard():
    """Also where these tests run under nohup, which has them ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.needs_posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.usefixtures("hangup_is_heard")
def test_what_ends_a_job_stops_it_after_the_step_with_a_checkpoint(settings, tmp_path, monkeypatch, name, code):
    whole = start(settings, tmp_path / "whole", write_line=quiet).run
    handlers = [signal.getsignal(number) for number in TERMINATION_SIGNALS]
    stop = stopped(settings, tmp_path / "run", monkeypatch, 4, getattr(signal, name))
    assert (stop.code, str(stop)) == (code, f"Stopped. Resume with: dashpot train --resume {tmp_path / 'run'}")
    assert read_newest(tmp_path / "run" / "checkpoints")["progress"]["position"] == [1, 2]
    assert [signal.getsignal(number) for number in TERMINATION_SIGNALS] == handlers
    assert resume(tmp_path / "run", write_line=quiet).run.loss == whole.loss


@pytest.mark.needs_posix
def test_the_exit_code_of_the_command_tells_the_signal(settings, tmp_path, monkeypatch, capsys):
    from dashpot.cli.main import run

    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    words = ["train", settings.task, "--optimizer", "sgd", "--lr", "0.1", "--threads", "1", "--out", f"{tmp_path}/run"]
    assert run(words) == 143
    assert capsys.readouterr().err == f"\nStopped. Resume with: dashpot train --resume {tmp_path}/run\n"


@pytest.mark.needs_posix
def test_the_second_signal_is_not_caught_whichever_it_is_and_an_ignored_one_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with interruptible(TERMINATION_SIGNALS) as check:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_DFL] * 2
            with pytest.raises(Interrupted) as stop:
                check()
            assert stop.value.code == 143
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_is_followed_by_the_command_that_goes_on(settings, tmp_path, monkeypatch, capsys):
    def fail():
        raise ZeroDivisionError("mine")

    with monkeypatch.context() as patch:
        at_step(patch, 4, fail)
        with pytest.raises(ZeroDivisionError, match=r"^mine$"):
            start(settings, tmp_path / "run", write_line=quiet)
    assert capsys.readouterr().err == f"Resume with: dashpot train --resume {tmp_path / 'run'}\n"
    assert resume(tmp_path / "run", write_line=quiet).status == "done"


def test_a_mistake_that_shows_while_it_trains_is_one_sentence_with_that_command(
    settings, tmp_path, monkeypatch, capsys
):
    def fail():
        raise RunError("The disk is full.")

    at_step(monkeypatch, 4, fail)
    with pytest.raises(RunError) as error:
        start(settings, tmp_path / "run", write_line=quiet)
    assert str(error.value) == f"The disk is full. Resume with: dashpot train --resume {tmp_path / 'run'}"
    assert capsys.readouterr().err == ""


# ---- damage ----------------------------------------------------------------------------------------------------------


def spoil(folder) -> None:
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:-100])


def test_a_run_whose_checkpoints_are_all_damaged_is_never_started_over(settings, tmp_path, monkeypatch):
    stopped(dataclasses.replace(settings, log=("csv",)), tmp_path / "run", monkeypatch, 4)
    spoil(tmp_path / "run")
    record = (tmp_path / "run" / "run.jsonl").read_bytes()
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(RunError, match="only damaged checkpoints"):
        resume(tmp_path / "run", write_line=quiet)
    before = files(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(RunError, match=r"are all damaged \(step-.*run\.toml starts a new run\.$"):
            resume(tmp_path / "run", write_line=quiet)
    assert files(tmp_path / "run") == before
    assert (tmp_path / "run" / "run.jsonl").read_bytes() == record


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_whose_record_is_gone_is_left_alone(settings, tmp_path, monkeypatch, damaged):
    folder = tmp_path / "run"
    stopped(dataclasses.replace(settings, log=("csv",)), folder, monkeypatch, 4)
    (folder / "run.jsonl").unlink()
    if damaged:
        path = latest(folder / "checkpoints")
        assert path is not None
        for each in path.parent.glob("*.ckpt"):
            each.rename(each.with_name(f"{each.name}.damaged"))
    before = files(folder)
    with pytest.raises(
        RunError, match=r"run has checkpoints, but its record run\.jsonl is missing; dashpot train --con"
    ):
        resume(folder, write_line=quiet)
    assert files(folder) == before
    assert any(name.endswith("log.csv") for name in before)
