"""Loop benchmark at toy size, without checks of the timings."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import loop as benchmark  # noqa: E402


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(benchmark, "STEPS", 6)
    monkeypatch.setitem(benchmark.CASES, "digits", (40, 4))


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("stream", [pytest.param(io.StringIO, marks=pytest.mark.slow), benchmark.Terminal])
def test_all_loops_are_timed_over_the_same_steps(stream):
    rows = benchmark.measured("digits", stream(), rounds=3)
    assert [(row.against, row.rounds) for row in rows] == [("bare", 3), ("sums", 3)]
    assert all(row.step > 0 and row.ratio > 0 and row.low <= row.ratio <= row.high for row in rows)
    assert benchmark.table(1, rows).count("| digits |") == 2


@pytest.mark.usefixtures("short")
def test_different_numbers_of_steps_raise(monkeypatch):
    real = benchmark.BareLoop.steps
    monkeypatch.setattr(benchmark.BareLoop, "steps", lambda loop, count: real(loop, count - 2))
    with pytest.raises(RuntimeError, match="different weights"):
        benchmark.measured("digits", io.StringIO(), rounds=2)


def test_learner_time_excludes_bare_loops(monkeypatch):
    """The clock advances by one second per read, so each turn of the learner and its work after an epoch take 1 s."""
    ticks = iter(range(1000))
    monkeypatch.setattr(benchmark, "clocks", lambda: (float(next(ticks)),) * 2)
    x, y = torch.randn(8, 2), torch.zeros(8, dtype=torch.int64)

    class Nothing:
        def begin(self, epoch): ...
        def steps(self, count): ...
        def end(self): ...

    turns = benchmark.Turns(benchmark.Batches(x, y, 2), [Nothing(), Nothing()], turn=2)
    for epoch in range(2):
        assert len(list(turns.epoch(epoch))) == 4
    turns.stop()
    bare = (4.0, 4.0)  # begin, two turns, end
    assert turns.rounds == [[bare, bare, (2.0 + 1.0,) * 2]] * 2
