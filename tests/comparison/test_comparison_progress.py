"""What a user is told while a study runs."""

from __future__ import annotations

import io

import pytest
from comparison_support import diverging, study, toy
from hypothesis import given
from hypothesis import strategies as st

from dashpot.comparison import LineProgress, LiveProgress, Study, run_study
from dashpot.comparison.progress import progress_for
from dashpot.runs import eta as eta_module
from dashpot.runs.eta import ProgressEstimate, duration


def told(tmp_path, chosen: Study) -> list[str]:
    stream = io.StringIO()
    run_study(chosen, tmp_path / "out", progress=LineProgress(stream))
    return stream.getvalue().splitlines()


def test_plain_lines_name_run_epoch_scores_rate_and_time_left(tmp_path):
    lines = told(tmp_path, study("sgd", "adam", epochs=2))
    assert len(lines) == 4
    assert lines[0].startswith("[1/2] sgd seed 0")
    assert lines[3].startswith("[2/2] adam seed 0")
    for line in lines:
        for part in ("epoch ", "train ", "eval ", "lr 0.05", "left"):
            assert part in line


def test_a_second_session_says_what_is_there(tmp_path):
    told(tmp_path, study("sgd", "adam"))
    again = told(tmp_path, study("sgd", "adam"))
    assert [line.split("0", 1)[1].strip() for line in again] == ["done in an earlier session"] * 2


def test_divergence_is_told(tmp_path):
    lines = told(tmp_path, Study(toy(), (diverging(),), (0,), 2))
    assert "diverged at step" in lines[0]


def test_bars_show_both_sessions_of_a_study(tmp_path, capsys):
    chosen = Study(toy(), (*study("adam").entries, diverging()), (0,), 2)
    run_study(chosen, tmp_path / "out", progress=LiveProgress())
    first = capsys.readouterr().out
    assert "adam seed 0" in first
    assert "diverged at step" in first
    assert first.index("adam seed 0") < first.index("too-fast seed 0")
    run_study(chosen, tmp_path / "out", progress=LiveProgress())
    assert "done in an earlier session" in capsys.readouterr().out


def test_bars_are_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(io.StringIO()), LineProgress)
    assert isinstance(progress_for(Terminal()), LiveProgress)


def test_time_left_is_the_rest_at_the_speed_of_this_session(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(eta_module.time, "perf_counter", lambda: now[0])
    estimate = ProgressEstimate(runs=4, steps=10)
    estimate.skip_run()  # done in an earlier session: no step of this one
    estimate.start_run(4)  # goes on after four steps
    assert estimate.remaining() is None
    now[0] += 6.0
    for step in range(5, 8):
        estimate.step(step)
    assert estimate.fraction == 17 / 40
    assert estimate.remaining() == pytest.approx(23 * 6.0 / 3)  # 23 steps to go, 3 steps in 6 seconds
    estimate.finish_run()  # diverged: the rest of the run is not waited for
    assert estimate.remaining() == pytest.approx(20 * 6.0 / 3)


@given(st.floats(0, 1e6))
def test_durations_have_no_rounding_gaps(seconds):
    text = duration(seconds)
    assert "60 s" not in text
    assert "60 min" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (86400, "24 h 0 min")],
)
def test_durations_at_their_edges(seconds, text):
    assert duration(seconds) == text
