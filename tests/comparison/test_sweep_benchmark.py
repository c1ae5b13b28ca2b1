"""Sweep benchmark: results of an interrupted sweep are kept, and the tables have a column per task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import sweep as benchmark  # noqa: E402


def test_sweep_continues_with_the_missing_methods(tmp_path, monkeypatch):
    done, calls = tmp_path / "sweep.json", []

    def result(method, task):
        calls.append((task.name, method))
        if method == "adam":
            raise KeyboardInterrupt
        return {"lr": 0.1, "score": 0.5, "rates": [0.1, 0.3, 0.03]}

    monkeypatch.setattr(benchmark, "result", result)
    with pytest.raises(KeyboardInterrupt):
        benchmark.results(["sgd", "adam"], ["quadratic"], done)
    assert list(json.loads(done.read_text())) == ["quadratic sgd"]
    monkeypatch.setattr(benchmark, "result", lambda method, task: {"lr": 1.0, "score": 0.25, "rates": [1.0]})
    found = benchmark.results(["sgd", "adam"], ["quadratic"], done)
    assert (found["quadratic sgd"]["lr"], found["quadratic adam"]["lr"]) == (0.1, 1.0)
    assert json.loads(done.read_text()) == found
    assert calls == [("quadratic", "sgd"), ("quadratic", "adam")]


def test_sweep_prints_the_tables_of_the_documentation(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sweep.py", "sgd", "--tasks", "quadratic"])
    monkeypatch.setattr(benchmark, "result", lambda method, task: {"lr": 0.1, "score": 0.5, "rates": [0.1, 0.3, 0.03]})
    threads = []
    monkeypatch.setattr(benchmark.torch, "set_num_threads", threads.append)
    benchmark.main()
    out = capsys.readouterr().out
    assert "| sgd |  |  | 0.1 (0.5) |  |  |  |" in out
    assert "| sgd |  |  | 0.03 to 0.3 |  |  |  |" in out
    assert threads == [1]
