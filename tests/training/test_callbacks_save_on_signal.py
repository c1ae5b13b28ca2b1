"""Checkpoints on a signal, after which the fit continues."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from learner_support import At, call_if, learner, on_batch, same, weights
from run_support import at_step, quiet
from slow_values import others_slow

from dashpot.errors import ArgumentError
from dashpot.runs.signals import SAVE_SIGNAL, recorded_signal
from dashpot.training import Accumulate, Checkpoints, SaveOnSignal, latest, read_newest
from dashpot.training.run.run import resume, start

pytestmark = pytest.mark.needs_posix


def send(number=signal.SIGUSR1):
    os.kill(os.getpid(), number)


def fitted(folder, callbacks=(), epochs=2, **options):
    torch.manual_seed(7)
    checkpoints = Checkpoints(folder, keep=None)
    one = learner()
    one.fit(epochs, callbacks=[checkpoints, SaveOnSignal(checkpoints), *callbacks], **options)
    return one, [int(path.name[5:13]) for path in sorted(folder.glob("*.ckpt"))]


@pytest.mark.parametrize("event", others_slow(["before_batch", "after_predict", "after_step"], "after_step"))
def test_signal_saves_after_the_current_step_and_continues(tmp_path, event):
    uninterrupted, steps = fitted(tmp_path / "whole")
    assert steps == [3, 6]
    before = signal.getsignal(signal.SIGUSR1)
    sends = At(event, call_if(lambda one: send(), lambda one: on_batch(1)(one) and one.epoch == 1))
    one, steps = fitted(tmp_path / "cut", [sends])
    assert steps == [3, 5, 6]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert same(weights(one), weights(uninterrupted))
    (tmp_path / "cut" / "step-00000006-00003.ckpt").unlink()
    state = read_newest(tmp_path / "cut")
    assert state["progress"]["position"] == [1, 2]
    torch.manual_seed(98)
    resumed = learner(seed=0)
    checkpoints = Checkpoints(tmp_path / "cut", keep=None)
    resumed.fit(2, callbacks=[checkpoints, SaveOnSignal(checkpoints)], resume=state)
    assert same(weights(resumed), weights(uninterrupted))


def test_signal_during_evaluation_saves_after_the_next_step(tmp_path):
    sends = At("after_predict", call_if(lambda one: send(), lambda one: not one.training and one.epoch == 0))
    _, steps = fitted(tmp_path, [sends])
    assert steps == [3, 4, 6]


def test_signal_during_accumulation_saves_after_the_step(tmp_path):
    sends = At("after_batch", call_if(lambda one: send(), on_batch(0)))
    _, steps = fitted(tmp_path, [sends, Accumulate(2)], epochs=1)
    assert steps == [1, 2]


def test_several_signals_save_several_checkpoints(tmp_path):
    sends = At("after_step", lambda one: [send(), send()])
    _, steps = fitted(tmp_path, [sends], epochs=1)
    assert steps == [1, 2, 3, 3]  # after the third step, and after the evaluation


def test_other_signal_can_be_chosen(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    checkpoints = Checkpoints(tmp_path)
    sends = At("after_step", call_if(lambda one: send(signal.SIGUSR2), on_batch(0)))
    learner().fit(1, callbacks=[checkpoints, SaveOnSignal(checkpoints, "SIGUSR2"), sends])
    assert (tmp_path / "step-00000001-00001.ckpt").exists()
    assert signal.getsignal(signal.SIGUSR2) == before


def test_handler_is_restored_after_an_error(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fitted(tmp_path, [At("after_step", fail)])
    assert signal.getsignal(signal.SIGUSR1) == before


def test_fit_in_another_thread_keeps_the_handler(tmp_path):
    before, found = signal.getsignal(signal.SIGUSR1), []
    note = At("after_step", lambda one: found.append(signal.getsignal(signal.SIGUSR1)))
    thread = threading.Thread(target=lambda: found.append(fitted(tmp_path, [note])[1]))
    thread.start()
    thread.join()
    assert found == [before] * 6 + [[3, 6]]


def test_requests_are_reported_once():
    with recorded_signal(SAVE_SIGNAL) as requested:
        assert not requested()
        send()
        send()
        assert (requested(), requested()) == (True, False)
    with recorded_signal(None) as requested:
        assert not requested()


def test_invalid_arguments_are_rejected(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ArgumentError, match="checkpoints must be a Checkpoints callback, got 'folder'"):
        SaveOnSignal("folder")
    for name in ("SIGTERM", "USR1", 10, None):
        with pytest.raises(ArgumentError, match="signal must be one of 'SIGUSR1', 'SIGUSR2', got"):
            SaveOnSignal(checkpoints, name)
    with pytest.raises(ArgumentError, match="checkpoints must be a callback of the same fit"):
        learner().fit(1, callbacks=[SaveOnSignal(checkpoints)])
    monkeypatch.delattr(signal, "SIGUSR2")
    with pytest.raises(ArgumentError, match="this system has no signal SIGUSR2"):
        SaveOnSignal(checkpoints, "SIGUSR2")


def test_command_saves_and_continues(settings, tmp_path, monkeypatch):
    uninterrupted = start(settings, tmp_path / "whole", write_line=quiet).run
    with monkeypatch.context() as patch:
        at_step(patch, 8, send)
        run = start(settings, tmp_path / "run", write_line=quiet).run
    assert (run.status, run.loss) == ("done", uninterrupted.loss)
    saved = tmp_path / "run" / "checkpoints"
    names = [path.name for path in sorted(saved.glob("*.ckpt"))]
    assert "step-00000009-00002.ckpt" in names
    for name in names:
        if name > "step-00000009-00002.ckpt":
            (saved / name).unlink()
    (tmp_path / "run" / "run.jsonl").write_bytes(
        b"\n".join((tmp_path / "run" / "run.jsonl").read_bytes().splitlines()[:-1]) + b"\n"
    )
    assert latest(saved).name == "step-00000009-00002.ckpt"
    assert resume(tmp_path / "run", write_line=quiet).run.loss == uninterrupted.loss
