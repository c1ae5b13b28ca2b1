"""Runs that are stopped by signals or errors, and resumed."""

from __future__ import annotations

import os
import signal

import pytest
from run_support import at_step, interrupted_start, quiet

from dashpot.cli.main import run as run_command
from dashpot.comparison import Interrupted
from dashpot.errors import RunError
from dashpot.runs.signals import TERMINATION_SIGNALS
from dashpot.training import Learner
from dashpot.training.callbacks.checkpoints import read_newest
from dashpot.training.run.run import resume, start


@pytest.fixture
def default_sighup():
    """Restore the default handler of SIGHUP, which is ignored if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.needs_posix
@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        ("SIGTERM", 143),
        pytest.param("SIGHUP", 129, marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("default_sighup")
def test_signal_stops_after_the_step_with_a_checkpoint(settings, tmp_path, monkeypatch, name, code):
    uninterrupted = start(settings, tmp_path / "uninterrupted", write_line=quiet).run
    handlers = [signal.getsignal(number) for number in TERMINATION_SIGNALS]
    stop = interrupted_start(settings, tmp_path / "run", monkeypatch, 8, getattr(signal, name))
    assert (stop.code, str(stop)) == (code, f"Stopped. Resume with: dashpot train --resume {tmp_path / 'run'}")
    assert read_newest(tmp_path / "run" / "checkpoints")["progress"]["position"] == [1, 2]
    assert [signal.getsignal(number) for number in TERMINATION_SIGNALS] == handlers
    assert resume(tmp_path / "run", write_line=quiet).run.loss == uninterrupted.loss


def test_signal_during_evaluation_stops_after_it_with_a_checkpoint(settings, tmp_path, monkeypatch):
    uninterrupted = start(settings, tmp_path / "uninterrupted", write_line=quiet).run
    get_loss = Learner.get_loss

    def interrupting_get_loss(self):
        if not self.training and self.epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)
        get_loss(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "get_loss", interrupting_get_loss)
        with pytest.raises(Interrupted, match="Resume with: dashpot train --resume"):
            start(settings, tmp_path / "run", write_line=quiet)
    assert read_newest(tmp_path / "run" / "checkpoints")["progress"]["position"] == [2, 0]
    run = resume(tmp_path / "run", write_line=quiet).run
    assert (run.loss, run.epochs[-1]["eval"]) == (uninterrupted.loss, uninterrupted.epochs[-1]["eval"])


@pytest.mark.slow
def test_run_resumed_at_every_fourth_step_is_bit_identical(settings, tmp_path, monkeypatch):
    uninterrupted = start(settings, tmp_path / "uninterrupted", write_line=quiet).run
    step = Learner.step
    interrupted_at = []

    def interrupting_step(self):
        if self.steps not in interrupted_at and self.steps % 4 == 1:
            interrupted_at.append(self.steps)
            os.kill(os.getpid(), signal.SIGINT)
        step(self)

    monkeypatch.setattr(Learner, "step", interrupting_step)
    with pytest.raises(Interrupted):
        start(settings, tmp_path / "run", write_line=quiet)
    for _ in range(4):
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", write_line=quiet)
    run = resume(tmp_path / "run", write_line=quiet).run
    assert interrupted_at == [1, 5, 9, 13, 17]
    assert (run.status, run.loss, run.lr) == ("done", uninterrupted.loss, uninterrupted.lr)
    assert [epoch["eval"] for epoch in run.epochs] == [epoch["eval"] for epoch in uninterrupted.epochs]
    kinds = [line.split('"')[3] for line in (tmp_path / "run" / "run.jsonl").read_text().splitlines()]
    assert kinds.count("header") == kinds.count("end") == 1


@pytest.mark.needs_posix
def test_command_exits_with_128_plus_signal_number(settings, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    words = ["train", settings.task, "--optimizer", "sgd", "--lr", "0.1", "--threads", "1", "--out", f"{tmp_path}/run"]
    assert run_command(words) == 143
    assert capsys.readouterr().err == f"\nStopped. Resume with: dashpot train --resume {tmp_path}/run\n"


def test_exception_prints_the_resume_command(settings, tmp_path, monkeypatch, capsys):
    def fail():
        raise ZeroDivisionError("division")

    with monkeypatch.context() as patch:
        at_step(patch, 4, fail)
        with pytest.raises(ZeroDivisionError, match=r"^division$"):
            start(settings, tmp_path / "run", write_line=quiet)
    assert capsys.readouterr().err == f"Resume with: dashpot train --resume {tmp_path / 'run'}\n"
    assert resume(tmp_path / "run", write_line=quiet).status == "done"


def test_run_error_includes_the_resume_command(settings, tmp_path, monkeypatch, capsys):
    def fail():
        raise RunError("The disk is full.")

    at_step(monkeypatch, 4, fail)
    with pytest.raises(RunError) as error:
        start(settings, tmp_path / "run", write_line=quiet)
    assert str(error.value) == f"The disk is full. Resume with: dashpot train --resume {tmp_path / 'run'}"
    assert capsys.readouterr().err == ""
