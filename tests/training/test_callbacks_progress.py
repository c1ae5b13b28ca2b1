"""Progress output of a fit: table, progress bar in a terminal, and cleanup."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from learner_support import StopAt, learner
from terminal_support import Terminal

import dashpot as dp
from dashpot.constraints import NONNEGATIVE
from dashpot.errors import ArgumentError
from dashpot.schedules import Cosine
from dashpot.training import Callback, CancelEpoch
from dashpot.training.callbacks import progress_output as module
from dashpot.training.callbacks.early_stopping import EarlyStopping
from dashpot.training.callbacks.progress import Progress
from dashpot.training.callbacks.progress_output import Bar
from dashpot.training.callbacks.time_estimate import TimeEstimate
from dashpot.training.fit_plan import FitPlan
from dashpot.utils.format import clock, decimals

pytestmark = pytest.mark.usefixtures("xterm")


def scheduled(params, lr):
    return dp.AdamW(params, lr=lr, schedule=Cosine(12))


def table_of(epochs=2, stream=None, callbacks=(), **options):
    stream = stream or io.StringIO()
    one = learner(scheduled)
    one.fit(epochs, callbacks=[Progress(stream, every_s=0), *callbacks], **options)
    return stream.getvalue().splitlines(), one


def test_table_in_a_plain_stream():
    lines, one = table_of(3)
    assert lines[0] == "        train              eval"
    assert lines[1] == "epoch    loss  accuracy    loss  accuracy        lr     time"
    assert len(lines) == 5
    for number, (line, means) in enumerate(zip(lines[2:], one.history, strict=True), 1):
        cells = line.split()
        numbers = [means[phase][name] for phase in ("train", "eval") for name in ("loss", "accuracy")]
        assert cells[:5] == [str(number), *(f"{value:.3f}" for value in numbers)]
        assert cells[5] == f"{0.01 * Cosine(12)(3 * number - 1):.3g}"  # rate of the last step
        assert cells[7] == "s"
        assert len(line) == len(lines[1])


def test_phases_that_do_not_run_have_no_columns():
    lines, _ = table_of(1, evaluate=False)
    assert lines[1].split() == ["epoch", "loss", "accuracy", "lr", "time"]
    lines, _ = table_of(1, train=False)
    assert lines[1].split() == ["epoch", "loss", "accuracy", "time"]


def test_default_stream_is_the_current_stdout(capsys):
    learner(callbacks=[Progress()]).fit(1)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_terminal_has_a_progress_bar_below_the_table():
    terminal, seen = Terminal(), []

    class Look(Callback):
        order = 71

        def after_batch(self, learner):
            seen.append(terminal.screen()[0])

    lines, one = table_of(2, terminal, [Look()])
    lines, visible, plain = terminal.screen()
    assert (visible, plain) == (True, True)
    table = [line for line in lines if line]
    assert table[:2] == table_of(2)[0][:2]
    assert [line.split()[0] for line in table[2:]] == ["1", "2"]
    first = [screen[-1] for screen in seen[:4]]
    assert [
        re.search(r"epoch 1/2  (train|eval) .* (\d/\d)  loss (\d\.\d{3})  ([\d.]+ s) left$", line)[2] for line in first
    ] == [
        *("1/3", "2/3", "3/3"),
        "1/1",
    ]
    assert all(len(line) <= 80 for screen in seen for line in screen)
    assert seen[2][-1].count("━") > seen[1][-1].count("━") > seen[0][-1].count("━") > 0
    assert seen[2][-1].count("─") == 0
    assert f"loss {decimals(one.history[0]['train']['loss'])}" in seen[2][-1]
    assert len([line for line in seen[-1] if line]) == 4  # two header lines, one epoch and the bar


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_narrow_terminal_omits_less_important_columns(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    table_of(2, terminal)
    lines = [line for line in terminal.screen()[0] if line]
    assert max(map(len, lines)) <= columns
    names = lines[1].split()
    assert names[:1] == ["epoch"]
    assert {80: 7, 60: 7, 40: 5, 20: 2}[columns] == len(names)
    assert len(lines) == 4


def test_progress_bar_omits_notes_that_do_not_fit():
    bar = Bar("epoch 3/6  train", 0.5, "59/118", "loss 0.412", "1 min 20 s left")
    for width in range(30, 100):
        title, done, rest, notes = bar.parts(width)
        assert len(title + done + rest + notes) == width
    assert bar.parts(70)[3] == "  59/118  loss 0.412  1 min 20 s left"
    assert bar.parts(60)[3] == "  loss 0.412  1 min 20 s left"
    assert bar.parts(45)[3] == "  1 min 20 s left"
    assert bar.parts(30)[3] == ""


@pytest.mark.parametrize("event", ["before_fit", "after_predict", "after_epoch", "cleanup_epoch"])
@pytest.mark.parametrize("error", [ValueError("expected"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_failed_fit_restores_the_terminal(event, error):
    class Fails(Callback):
        order = 100

        def fail(self, learner):
            if learner.steps or event == "before_fit":
                raise error

    setattr(Fails, event, Fails.fail)
    terminal, one = Terminal(), learner()
    with pytest.raises(type(error)):
        one.fit(2, callbacks=[Progress(terminal, every_s=0), Fails()])
    lines, visible, plain = terminal.screen()
    assert (visible, plain) == (True, True)
    assert not any("━" in line or "epoch 1/2" in line for line in lines)
    print("free", file=terminal)
    assert terminal.screen()[0][-2] == "free"


def test_cursor_stays_visible():
    terminal = Terminal()

    class Look(Callback):
        def after_predict(self, learner):
            assert terminal.screen()[1]  # visible even if the process is killed here

    table_of(1, terminal, [Look()])


def test_other_output_is_not_redirected(capsys):
    class Prints(Callback):
        def after_epoch(self, learner):
            print("output")

    terminal = Terminal()
    table_of(1, terminal, [Prints()])
    assert capsys.readouterr().out == "output\n" * 2  # stdout is not a terminal here
    assert "output" not in terminal.getvalue()


def test_resumed_table_starts_with_previous_epochs():
    class Sleeps(Callback):
        def after_batch(self, learner):
            time.sleep(0.02)

    stream, stop = io.StringIO(), StopAt(7)
    torch.manual_seed(7)
    learner(scheduled).fit(3, callbacks=[Progress(stream), Sleeps(), stop])
    whole = table_of(3)[0]
    resumed = io.StringIO()
    learner(scheduled, seed=0).fit(3, callbacks=[Progress(resumed)], resume=stop.state)
    lines = resumed.getvalue().splitlines()
    assert len(lines) == len(whole) == 5
    assert lines[:4] == stream.getvalue().splitlines()[:4]
    assert float(lines[4].split()[6]) >= 0.0  # the time before the stop is included
    finished = learner(scheduled)
    state = None

    class Last(Callback):
        order = 90

        def after_epoch(self, learner):
            nonlocal state
            if not learner.training:
                state = learner.state_dict()

    finished.fit(2, callbacks=[Progress(io.StringIO()), Last()])
    state["callbacks"].pop("Last", None)
    again = io.StringIO()
    learner(scheduled).fit(2, callbacks=[Progress(again)], resume=state)
    assert len(again.getvalue().splitlines()) == 4


def test_seconds_of_a_resumed_epoch_include_the_earlier_part():
    class Sleeps(Callback):
        def after_batch(self, learner):
            time.sleep(0.2)

    stop = StopAt(2)
    learner().fit(1, callbacks=[Progress(io.StringIO()), Sleeps(), stop])
    resumed = io.StringIO()
    learner().fit(1, callbacks=[Progress(resumed)], resume=stop.state)
    assert float(resumed.getvalue().splitlines()[2].split()[6]) >= 0.4


def test_table_with_cancelled_phases_and_early_stopping():
    class Cancels(Callback):
        def before_batch(self, learner):
            if (learner.epoch, learner.loop.phase) in {(0, "train"), (1, "eval")}:
                raise CancelEpoch

    lines, _ = table_of(3, callbacks=[Cancels()])
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3"]
    assert lines[2][5:23].strip() == ""
    assert lines[3][23:39].strip() == ""
    lines, _ = table_of(9, callbacks=[EarlyStopping(min_delta=100.0, patience=1)])
    assert len(lines) == 4


def test_remaining_time_counts_both_phases(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)

    class Fit:
        epochs, epoch, training = 3, 0, True
        evaluation = SimpleNamespace(size=4)
        plan = FitPlan(cast(Any, SimpleNamespace(size=10)), 3)
        loop = SimpleNamespace(phase="train", phases={"train": True, "eval": True}, plan=plan)

    estimate, one = TimeEstimate(), Fit()
    assert estimate.remaining(one, 0) is None
    estimate.done, estimate.seconds = {"train": 5, "eval": 0}, {"train": 5.0, "eval": 0.0}
    estimate.since = time.perf_counter()
    # One second per training batch, and a third of a second per evaluation batch.
    assert estimate.remaining(one, 5) == pytest.approx(25 * 1.0 + 12 / 3)
    one.training, one.loop.phase, one.epoch = False, "eval", 2
    estimate.done, estimate.seconds = {"train": 30, "eval": 2}, {"train": 30.0, "eval": 4.0}
    estimate.begin("eval")
    assert estimate.remaining(one, 2) == pytest.approx(2 * 2.0)


def test_bar_is_redrawn_at_most_every_s(monkeypatch):
    drawn = []
    monkeypatch.setattr(module.Terminal, "draw", lambda self, bar: drawn.append(bar))
    learner().fit(4, callbacks=[Progress(Terminal(), every_s=1000)])
    assert len(drawn) == 8  # at the start of each phase
    learner().fit(4, callbacks=[Progress(Terminal(), every_s=0)])
    assert len(drawn) == 8 + 8 + 16


def test_table_without_rich_and_in_dumb_terminals(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    lines, _ = table_of(1, Terminal())
    assert len(lines) == 3
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setitem(__import__("sys").modules, "rich.live", None)
    lines, _ = table_of(1, Terminal())
    assert len(lines) == 3


def test_formats_of_numbers_and_times():
    assert [decimals(value) for value in (0.9996, 12.3456, 9999.9, 10000.0, 0.00099, float("inf"))] == [
        *("1.000", "12.346", "9999.900", "1.00e+04", "9.90e-04", "inf")
    ]
    assert [clock(value) for value in (0.04, 59.94, 60.2, 3599.4, 3599.6)] == [
        "0.0 s",
        "59.9 s",
        "1:00",
        "59:59",
        "1:00:00",
    ]


def test_invalid_arguments_are_rejected():
    for value in NONNEGATIVE.refused():
        with pytest.raises(ArgumentError, match="Progress: every_s must be"):
            Progress(every_s=value)
    with pytest.raises(ArgumentError, match="stream must be None or a writable text stream, got 'log'"):
        Progress("log")
