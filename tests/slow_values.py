"""Choice of fast tests among the values of a parametrization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def others_slow(values: Iterable[Any], *fast: Any) -> list[Any]:
    """Return the values as parameters, with those not in `fast` marked slow. All fast values must exist."""
    values = list(values)
    assert all(value in values for value in fast), f"unknown values in {fast}"
    return [value if value in fast else pytest.param(value, marks=pytest.mark.slow) for value in values]
