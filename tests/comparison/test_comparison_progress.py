"""Progress reports of a study."""

from __future__ import annotations

import io

from study_support import diverging, study, toy

from dashpot.comparison import LineProgress, LiveProgress, Study, run_study
from dashpot.comparison.progress import progress_for


def printed_lines(tmp_path, two_runs: Study) -> list[str]:
    stream = io.StringIO()
    run_study(two_runs, tmp_path / "out", progress=LineProgress(stream))
    return stream.getvalue().splitlines()


def test_line_progress_prints_run_epoch_scores_lr_and_time_left(tmp_path):
    lines = printed_lines(tmp_path, study("sgd", "adam", epochs=2))
    assert len(lines) == 4
    assert lines[0].startswith("[1/2] sgd seed 0")
    assert lines[3].startswith("[2/2] adam seed 0")
    for line in lines:
        for part in ("epoch ", "train ", "eval ", "lr 0.05", "left"):
            assert part in line


def test_line_progress_reports_runs_of_an_earlier_session(tmp_path):
    printed_lines(tmp_path, study("sgd", "adam"))
    again = printed_lines(tmp_path, study("sgd", "adam"))
    assert [line.split("0", 1)[1].strip() for line in again] == ["done in an earlier session"] * 2


def test_line_progress_reports_divergence(tmp_path):
    lines = printed_lines(tmp_path, Study(toy(), (diverging(),), (0,), 2))
    assert "diverged at step" in lines[0]


def test_live_progress_shows_both_sessions_of_a_study(tmp_path, capsys):
    two_runs = Study(toy(), (*study("adam").entries, diverging()), (0,), 2)
    run_study(two_runs, tmp_path / "out", progress=LiveProgress())
    first = capsys.readouterr().out
    assert "adam seed 0" in first
    assert "diverged at step" in first
    assert first.index("adam seed 0") < first.index("too-fast seed 0")
    run_study(two_runs, tmp_path / "out", progress=LiveProgress())
    assert "done in an earlier session" in capsys.readouterr().out


def test_progress_for_chooses_bars_only_for_terminals():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(progress_for(io.StringIO()), LineProgress)
    assert isinstance(progress_for(Terminal()), LiveProgress)
