"""`dashpot train --plot` and `--log`: plots and logs of a run, also after a resume."""

from __future__ import annotations

from pathlib import Path

from cli_support import WORDS, interrupt_at

from dashpot.runs.settings import read_settings


def test_plot_is_drawn_after_the_table(dashpot, my_task):
    code, out, err = dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "a")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert "plot" not in read_settings(Path("a/run.toml"))
    table = next(number for number, line in enumerate(lines) if line.startswith("epoch")) + 3
    assert lines[table].startswith("loss")
    assert lines[table + 12].split() == ["0", "step", "6"]
    assert lines[-1].endswith("Repeat with: dashpot train --config a/run.toml")


def test_plot_of_a_resumed_run_starts_with_the_first_step(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        assert dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "a")[0] == 130
    code, out, _ = dashpot("train", "--resume", "a", "--plot")
    whole = dashpot("train", my_task, *WORDS, "--epochs", 2, "--plot", "--out", "b")[1]
    assert code == 0
    assert plot_of(out) == plot_of(whole)


def plot_of(out: str) -> list[str]:
    lines = out.splitlines()
    last = next(number for number, line in enumerate(lines) if line.endswith("step 6"))
    return lines[last - 12 : last + 1]
