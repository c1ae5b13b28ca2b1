"""Loss curve that `Progress(plot=True)` draws in terminals, notebooks and other streams."""

from __future__ import annotations

import io
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from learner_support import At, StopAt, learner
from resume_support import Resumed
from slow_values import others_slow
from terminal_support import Terminal

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training import Callback, CancelFit, Progress, Recorder
from dashpot.training.callbacks.loss_curve import ThinnedSeries
from dashpot.training.callbacks.recorder import StepRecorder
from dashpot.training.callbacks.text_plot import ASCII, EVAL, TRAIN, UNICODE, plot_lines

pytestmark = pytest.mark.usefixtures("xterm")


def curve(train=(), evaluation=()):
    return SimpleNamespace(train=list(train), evaluation=list(evaluation))


def text_of(lines):
    return ["".join(text for text, _ in line) for line in lines]


FALLING = curve([(step, 2.0 - step / 100) for step in range(1, 101)], [(50, 1.6), (100, 1.2)])


# ---- the curve ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 100])
def test_thinned_series_has_means_of_groups(count):
    series, values = ThinnedSeries(limit=8), [math.sin(k) for k in range(count)]
    for step, value in enumerate(values, 1):
        series.add(step, value)
    assert len(series.points) <= 9
    size = series.size
    groups = [values[at : at + size] for at in range(0, count, size)]
    assert [step for step, _ in series.points] == [min(at + size, count) for at in range(0, count, size)]
    assert [mean for _, mean in series.points] == pytest.approx([sum(g) / len(g) for g in groups], rel=1e-12)
    copy = ThinnedSeries(limit=8)
    copy.load_state_dict(series.state_dict())
    assert copy.points == series.points


def test_thinned_series_omits_nonfinite_values():
    series = ThinnedSeries(limit=2)
    for step, value in enumerate([1.0, math.nan, math.inf, math.nan, 3.0, 5.0], 1):
        series.add(step, value)
    assert series.points == [(4, 1.0), (6, 4.0)]  # groups of four steps


def fitted(stream=None, epochs=2, callbacks=(), every_s=0.0, make=dp.AdamW, **options):
    progress, recorder = Progress(stream or io.StringIO(), every_s, plot=True), Recorder()
    one = learner(make, callbacks=[progress, recorder, *callbacks])
    one.fit(epochs, **options)
    return progress, recorder.values["loss"], one


def test_curve_has_the_losses_of_steps_and_evaluations():
    progress, losses, one = fitted()
    assert progress._curve.train == list(enumerate(losses, 1))
    assert progress._curve.evaluation == [(3 * n, means["eval"]["loss"]) for n, means in enumerate(one.history, 1)]


def test_curve_of_a_resumed_fit_is_that_of_an_uninterrupted_fit(tmp_path):
    curves = []

    class Kept(Progress):
        def cleanup_fit(self, learner):
            super().cleanup_fit(learner)
            curves.append((self._curve.train, self._curve.evaluation))

    Kept.__name__ = "Progress"
    Resumed(learner, tmp_path, [4, 5], lambda: [Kept(io.StringIO(), plot=True)])
    torch.manual_seed(7)
    learner().fit(3, callbacks=[Kept(io.StringIO(), plot=True)])
    assert curves[2] == curves[3]
    assert len(curves[3][0]) == 9


def test_state_without_a_curve_resumes():
    stop = StopAt(2)
    learner().fit(1, callbacks=[Progress(io.StringIO()), stop])
    progress = Progress(io.StringIO(), plot=True)
    learner().fit(1, callbacks=[progress], resume=stop.state)
    assert [step for step, _ in progress._curve.train] == [3]


@pytest.mark.parametrize("stream", [Terminal, pytest.param(io.StringIO, marks=pytest.mark.slow)])
def test_losses_are_read_only_when_drawn(stream, monkeypatch):
    reads = []
    flush = StepRecorder._flush
    monkeypatch.setattr(StepRecorder, "_flush", lambda self: reads.append(len(self._pending)) or flush(self))
    steps = 2 * SYNC_INTERVAL + 5
    progress = Progress(stream(), every_s=1000.0, plot=True)
    learner(dp.SGD, examples=4 * steps, callbacks=[progress]).fit(1)
    first = [1] if stream is Terminal else []
    assert [count for count in reads if count] == [*first, SYNC_INTERVAL, SYNC_INTERVAL, 5 - len(first)]
    assert len(progress._curve.train) == steps


# ---- text -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [UNICODE, ASCII])
@pytest.mark.parametrize("width", [20, 21, 40, 80, 120])
def test_plot_lines_fit_the_width(width, signs):
    lines = text_of(plot_lines(FALLING, width, 10, signs))
    assert len(lines) == 13
    assert max(map(len, lines)) <= width
    assert {len(line) for line in lines[1:]} == {width}
    assert lines[-1].split() == ["0", "step", "100"]
    assert lines[1].startswith("1.9")
    assert lines[10].startswith("1.0")


def test_plot_shows_the_curve_from_the_upper_left_to_the_lower_right():
    rows = plot_lines(FALLING, 80, 10)[1:11]
    first, last = text_of(rows)[0], text_of(rows)[-1]
    assert first[6:].strip()
    assert not first[20:].strip()
    assert not last[6:60].strip()
    styles = [[style for _, style in row] for row in rows]
    assert all(TRAIN in row for row in styles)
    assert sum(row.count(EVAL) for row in styles) == 2
    marks = [(number, text.index("●")) for number, text in enumerate(text_of(rows)) if "●" in text]
    assert [column for _, column in marks] == [43, 79]  # steps 50 and 100 of 100, in columns 6 to 79
    assert marks[0][0] < marks[1][0]


def test_legend_shows_the_latest_losses_that_fit():
    assert text_of(plot_lines(FALLING, 80, 4))[0] == "loss  ⠤⠤ train 1.000  ● eval 1.200"
    assert text_of(plot_lines(FALLING, 22, 4))[0] == "loss  ⠤⠤ train 1.000"
    assert text_of(plot_lines(curve(evaluation=[(3, 0.5)]), 40, 4, ASCII))[0] == "loss  o eval 0.500"


@pytest.mark.parametrize(("smallest", "log"), [(0.05, True), (0.2, False), (0.0, False), (-1.0, False)])
def test_axis_is_logarithmic_for_positive_losses_of_different_magnitudes(smallest, log):
    lines = text_of(plot_lines(curve([(1, 2.0), (2, smallest)]), 60, 5))
    assert lines[0].startswith("loss (log)  ") == log
    middle = math.sqrt(2.0 * smallest) if log else (2.0 + smallest) / 2
    assert lines[3].lstrip().startswith(f"{middle:.3f}┤")


def test_plot_of_a_constant_and_of_no_finite_loss():
    lines = text_of(plot_lines(curve([(1, 0.5), (2, 0.5)]), 40, 5))
    assert sum("0.500┤" in line for line in lines) == 1
    assert plot_lines(curve([(1, math.nan)], [(1, math.inf)]), 40, 5) == []
    assert plot_lines(curve(), 40, 5) == plot_lines(FALLING, 19, 5) == []
    assert len(plot_lines(curve([(1, 0.5)]), 40, 5)) == 8


def test_plot_of_a_fit_without_steps_shows_the_evaluations():
    stream = io.StringIO()
    learner().fit(2, train=False, callbacks=[Progress(stream, plot=True)])
    assert "step 0" in stream.getvalue()
    assert "eval" in stream.getvalue()


def test_ascii_plot_has_only_ascii_characters():
    assert all(line.isascii() for line in text_of(plot_lines(FALLING, 40, 5, ASCII)))


# ---- terminals and streams ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", others_slow([40, 80, 120], 40))
def test_terminal_shows_the_plot_above_the_bar_and_keeps_it(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal, screens = Terminal(), []
    fitted(terminal, callbacks=[At("after_batch", lambda one: screens.append(terminal.screen()[0]), order=71)])
    assert all(len(line) <= columns for screen in screens for line in screen)
    during = [line for line in screens[-1] if line]
    assert "epoch 2/2" in during[-1]
    assert "step 6" in during[-2]
    assert during[-14].startswith("loss")
    assert not any("train 0" in line or "train 1" in line for line in during[:-14])  # drawn in place
    lines, visible, plain = terminal.screen()
    lines = [line for line in lines if line]
    assert (visible, plain) == (True, True)
    assert lines[-1].split() == ["0", "step", "6"]
    assert lines[-13].startswith("loss  ⠤⠤ train")
    assert [line.split()[0] for line in lines[:-13]] == ["train", "epoch", "1", "2"]
    assert "\x1b[36m" in terminal.getvalue()
    assert "\x1b[35m" in terminal.getvalue()


def test_plot_fits_a_low_terminal(monkeypatch):
    monkeypatch.setenv("LINES", "12")
    terminal, screens = Terminal(), []
    fitted(terminal, callbacks=[At("after_batch", lambda one: screens.append(terminal.screen()[0]), order=71)])
    assert sum("┤" in line or "│" in line for line in screens[1]) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_other_streams_have_the_plot_after_the_fit(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    fitted(stream)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert len(lines) == 4 + 13
    assert lines[4].startswith("loss  ⠤⠤ train" if encoding == "utf-8" else "loss  ** train")
    assert max(map(len, lines)) == 80


@pytest.mark.parametrize("error", [ValueError, CancelFit])
def test_failed_fit_has_no_final_plot_but_a_cancelled_fit_has(error):
    class Fails(Callback):
        def after_step(self, learner):
            if learner.steps == 4:
                raise error

    stream = io.StringIO()
    if error is CancelFit:
        fitted(stream, callbacks=[Fails()])
    else:
        with pytest.raises(ValueError, match=r"^$"):
            fitted(stream, callbacks=[Fails()])
    assert ("step 4" in stream.getvalue()) == (error is CancelFit)


def test_without_plot_the_output_has_none():
    stream = io.StringIO()
    learner(callbacks=[Progress(stream)]).fit(1)
    assert len(stream.getvalue().splitlines()) == 3


# ---- notebooks and figures ------------------------------------------------------------------------------------------


@pytest.fixture
def displayed(monkeypatch):
    """Emulate a Jupyter kernel, and return the displayed items: display id, whether it is an update, and data."""
    import IPython
    from IPython.core.interactiveshell import InteractiveShell

    items = []
    shell = InteractiveShell()
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(InteractiveShell, "initialized", classmethod(lambda cls: True))
    monkeypatch.setattr(InteractiveShell, "instance", classmethod(lambda cls, *args, **kwargs: shell))
    shell.kernel = object()

    def publish(data, metadata=None, *, transient=None, update=False, **_):
        items.append(((transient or {}).get("display_id"), update, data))

    monkeypatch.setattr(shell.display_pub, "publish", publish)
    yield items
    shell.history_manager.end_session()


def test_notebook_updates_one_figure_in_place(displayed, capsys):
    progress = Progress(every_s=0.0, plot=True)
    learner(examples=4, callbacks=[progress]).fit(2)
    assert len({identity for identity, _, _ in displayed}) == 1
    assert [update for _, update, _ in displayed] == [False] + [True] * (len(displayed) - 1)
    assert len(displayed) == 2 + 2 + 2 + 1  # batches of both phases, ends of epochs, and the end of the fit
    assert all(data["image/png"] for _, _, data in displayed)
    assert displayed[0][2]["image/png"] != displayed[-1][2]["image/png"]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["train", "epoch", "1", "2"]


def test_notebook_figure_is_throttled(displayed):
    learner(callbacks=[Progress(every_s=1000.0, plot=True)]).fit(1)
    assert len(displayed) == 1 + 1 + 1  # the first batch, ends of epochs, and the end of the fit


def test_notebook_without_matplotlib_raises_before_training(displayed, monkeypatch):
    from dashpot.figures import axes

    axes._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    one = learner(callbacks=[Progress(plot=True)])
    with pytest.raises(ArgumentError, match=r"Progress\(plot=True\) needs matplotlib: pip install 'dashpot\[plot\]'"):
        one.fit(1)
    assert one.steps == 0


def test_figure_shows_both_losses():
    progress, losses, one = fitted()
    [axes] = progress.figure().axes
    train, evaluation = axes.lines
    assert (train.get_label(), list(train.get_xdata()), list(train.get_ydata())) == ("train", [*range(1, 7)], losses)
    assert list(evaluation.get_ydata()) == [means["eval"]["loss"] for means in one.history]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("step", "loss", "linear")
    progress._curve.evaluation.append((7, 1e-4))
    assert progress.figure().axes[0].get_yscale() == "log"


def test_invalid_arguments_are_rejected():
    for value in (1, "yes", None):
        with pytest.raises(ArgumentError, match="Progress: plot must be"):
            Progress(plot=value)
    for progress in (Progress(), Progress(plot=True)):
        with pytest.raises(ArgumentError, match="figure requires plot=True and a fit that has begun"):
            progress.figure()
