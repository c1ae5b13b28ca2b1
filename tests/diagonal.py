"""Choice of fast tests among the combinations of stacked parametrizations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def mark_combinations(items: Iterable[Any]) -> None:
    """Mark combinations outside the diagonal as slow, for tests with the marker `diagonal`.

    Combination k of the diagonal has value number k, modulo their count, of each parametrization. It ends with the
    longest parametrization, so that it contains all values. Combinations that are already slow tests do not count.
    No test is marked if the diagonal is incomplete, for example because tests were selected by name.
    """
    tests = defaultdict(list)
    for item in items:
        if "diagonal" in item.keywords and "slow" not in item.keywords:
            tests[item.parent, item.originalname].append(item)
    for found in tests.values():
        for item in _outside_diagonal(found):
            item.add_marker(pytest.mark.slow)


def _outside_diagonal(items: Sequence[Any]) -> list[Any]:
    """Return the items outside the diagonal of their combinations."""
    ids = [item.callspec._idlist for item in items]  # `callspec.indices` numbers combinations, not values
    values = [list(dict.fromkeys(column)) for column in zip(*ids, strict=True)]
    count = max(map(len, values))
    diagonal = {tuple(found[k % len(found)] for found in values) for k in range(count)}
    outside = [item for item, combination in zip(items, ids, strict=True) if tuple(combination) not in diagonal]
    complete = len(items) - len(outside) == count
    return outside if complete else []
