"""Progress reports of a study."""

from __future__ import annotations

import io

import pytest
from study_support import diverging, study, toy

from dashpot.comparison import LineProgress, LiveProgress, Study, run_study
from dashpot.comparison import progress as progress_module
from dashpot.comparison.pipe_progress import PipeProgress, forward
from dashpot.comparison.progress import StudyProgress, item_label, progress_for


def printed_lines(tmp_path, two_runs: Study) -> list[str]:
    stream = io.StringIO()
    run_study(two_runs, tmp_path / "out", progress=LineProgress(stream))
    return stream.getvalue().splitlines()


def test_line_progress_prints_a_line_with_the_score_for_each_item(tmp_path):
    lines = printed_lines(tmp_path, study("sgd", "adam", epochs=2))
    assert len(lines) == 2
    assert lines[0].startswith("[1/2] sgd seed 0")
    assert lines[1].startswith("[2/2] adam seed 0")
    for line in lines:
        assert "done  accuracy " in line
    assert "left" in lines[0]
    assert "left" not in lines[1]  # no item remains


def test_line_progress_prints_evaluations_of_long_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_INTERVAL", 0.0)
    lines = printed_lines(tmp_path, study("sgd", epochs=2))
    assert len(lines) == 9  # 8 evaluations and the end
    for part in ("[1/1] sgd seed 0", "step 1  train ", "eval ", "lr 0.05"):
        assert part in lines[0]


def test_line_progress_reports_items_of_an_earlier_session(tmp_path):
    printed_lines(tmp_path, study("sgd", "adam"))
    again = printed_lines(tmp_path, study("sgd", "adam"))
    assert again == ["All 2 items were done in an earlier session."]


def test_line_progress_reports_divergence(tmp_path):
    lines = printed_lines(tmp_path, Study(toy(), (diverging(),), (0,), 2))
    assert "diverged at step" in lines[0]
    assert "the loss is" in lines[0]


def test_line_progress_removes_escape_codes():
    stream = io.StringIO()
    report = LineProgress(stream)
    report.begin(1, 1)
    report.finish("run/adam/0", "failed: \x1b[31mred")
    assert "\x1b" not in stream.getvalue()


def test_live_progress_shows_both_sessions_of_a_study(tmp_path, capsys):
    two_runs = Study(toy(), (*study("adam").entries, diverging()), (0,), 2)
    run_study(two_runs, tmp_path / "out", progress=LiveProgress())
    first = capsys.readouterr().out
    assert "adam seed 0" in first
    assert "diverged at step" in first
    assert first.index("adam seed 0") < first.index("too-fast seed 0")
    run_study(two_runs, tmp_path / "out", progress=LiveProgress())
    assert "All 2 items were done in an earlier session." in capsys.readouterr().out


def test_progress_for_chooses_bars_only_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(io.StringIO()), LineProgress)
    assert isinstance(progress_for(Terminal()), LiveProgress)


class Recording(StudyProgress):
    """Progress report that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def start(self, key, steps_done=0, worker=0):
        self.calls.append(("start", key, steps_done, worker))

    def step(self, steps_done, worker=0):
        self.calls.append(("step", steps_done, worker))

    def interval(self, text, worker=0):
        self.calls.append(("interval", text, worker))

    def finish(self, key, text, worker=0):
        self.calls.append(("finish", key, text, worker))

    def drop(self, worker=0):
        self.calls.append(("drop", worker))

    def total(self, finished):
        self.calls.append(("total", finished))

    def note(self, text):
        self.calls.append(("note", text))


def test_pipe_transfers_all_events_with_the_number_of_the_worker():
    stream, report = io.BytesIO(), Recording()
    pipe = PipeProgress(stream)
    pipe.begin(3, 10)
    pipe.total(1)
    pipe.start("run/adam/0", 4)
    pipe.step(5)
    pipe.step(6)  # within the shortest interval of two reports
    pipe.interval("step 8")
    pipe.finish("run/adam/0", "done")
    pipe.drop()
    pipe.note("text")
    events = [forward(line, report, 2) for line in stream.getvalue().splitlines()]
    assert events[0] == {"event": "ready"}
    assert report.calls == [
        ("total", 1),
        ("start", "run/adam/0", 4, 2),
        ("step", 5, 2),
        ("interval", "step 8", 2),
        ("finish", "run/adam/0", "done", 2),
        ("drop", 2),
        ("note", "text"),
    ]


@pytest.mark.parametrize("line", [b"", b"loss 0.3\n", b"[1]\n", b'{"a": 1}\n', b"\xff\n", b'{"event": "__init__"}\n'])
def test_other_output_on_the_pipe_is_ignored(line):
    report = Recording()
    forward(line, report, 1)
    assert report.calls == []


def test_closed_pipe_does_not_end_the_worker():
    stream = io.BytesIO()
    stream.close()
    PipeProgress(stream).note("text")


@pytest.mark.parametrize("key", ["", "run", "other/adam/0"])
def test_label_of_an_unknown_key_is_the_key(key):
    assert item_label(key) == key
