"""Remaining time of a study, and durations as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashpot.runs import eta as eta_module
from dashpot.runs.eta import ProgressEstimate
from dashpot.utils.format import duration


def test_estimate_uses_the_speed_of_this_session_only(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(eta_module.time, "perf_counter", lambda: now[0])
    estimate = ProgressEstimate(items=4, steps=10)
    estimate.total(1)  # finished in an earlier session, so not used for the speed
    estimate.start(4)  # resumed after four steps
    assert estimate.remaining() is None
    now[0] += 6.0
    for step in range(5, 8):
        estimate.step(step)
    assert estimate.fraction == 17 / 40
    assert estimate.remaining() == pytest.approx(23 * 6.0 / 3)  # 23 steps to go, 3 steps in 6 seconds
    estimate.finish()  # diverged early, so its remaining steps are not needed
    assert estimate.remaining() == pytest.approx(20 * 6.0 / 3)


def test_estimate_adds_the_steps_of_all_workers(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(eta_module.time, "perf_counter", lambda: now[0])
    estimate = ProgressEstimate(items=4, steps=10)
    for worker in (1, 2):
        estimate.start(0, worker)
        estimate.step(5, worker)
    now[0] = 2.0
    assert estimate.remaining() == pytest.approx(30 * 2.0 / 10)
    estimate.drop(2)  # its worker has died
    assert estimate.fraction == 5 / 40
    estimate.finish(1)
    estimate.total(3)  # another machine has finished two items
    assert estimate.fraction == 3 / 4
    assert estimate.remaining() == pytest.approx(10 * 2.0 / 10)


def test_fraction_never_exceeds_one():
    estimate = ProgressEstimate(items=1, steps=2)
    estimate.finish()
    estimate.total(5)
    estimate.start(0)
    estimate.step(2)
    assert estimate.fraction == 1.0
    assert estimate.remaining() == 0.0


@given(st.floats(0, 1e6))
def test_duration_never_shows_60_seconds_or_minutes(seconds):
    text = duration(seconds)
    assert "60 s" not in text
    assert "60 min" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (86400, "24 h 0 min")],
)
def test_duration_at_unit_boundaries(seconds, text):
    assert duration(seconds) == text
