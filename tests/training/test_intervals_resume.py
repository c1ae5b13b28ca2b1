"""Exact resume of fits by steps: within and between intervals and passes, for data with and without a length."""

from __future__ import annotations

import pytest
from interval_support import SOURCES, interval_learner, stopped_and_resumed, uninterrupted
from resume_support import assert_same

from dashpot.training import EMA, Accumulate

STEPS = 11
"""Number of steps of a fit; a pass has about 4 batches, and an interval 3 steps."""


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("at", "at_end"),
    [(2, False), (3, False), (3, True), (4, False), (7, False), (8, False), (9, True), (10, False)],
)
def test_fit_by_steps_resumes_exactly(source, at, at_end, tmp_path):
    def make():
        return interval_learner(source, callbacks=[EMA(0.9)])

    fit = {"steps": STEPS, "evaluate_every": 3}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, at_end=at_end, **fit))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("at", "at_end"), [(1, False), (2, True), (3, False)])
def test_fit_by_steps_with_accumulation_resumes_exactly(source, at, at_end, tmp_path):
    def make():
        return interval_learner(source, callbacks=[Accumulate(3)])

    fit = {"steps": 5, "evaluate_every": 2}
    assert_same(uninterrupted(make, **fit), stopped_and_resumed(make, tmp_path, at, at_end=at_end, **fit))
