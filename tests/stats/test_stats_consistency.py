"""Intervals and p-values of comparisons do not contradict each other."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from dashpot.stats.all_pairs import all_pairs


@pytest.mark.diagonal
@pytest.mark.parametrize("level", [0.95, 0.9875])
@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (2, 20), (4, 5), (4, 20), (4, 31)])
def test_interval_excludes_zero_if_and_only_if_p_is_small(methods, seeds, level):
    rng = np.random.default_rng((methods, seeds))
    near = 8.0 / math.sqrt(seeds) if seeds >= 20 else 30.0
    found = set()
    for draw in range(16):
        scores = rng.standard_t(3, (methods, seeds)) + near * rng.random((methods, 1))
        if draw % 4 == 3:
            scores[0, rng.integers(seeds)] = math.nan
        result = all_pairs(scores, level)
        for i, j in combinations(range(methods), 2):
            interval, p = result.intervals[i][j], result.p[i][j]
            assert interval.low <= interval.estimate <= interval.high
            assert interval.excludes(0.0) == (p <= 1 - level)
            found.add(interval.excludes(0.0))
    assert found == {False, True}
