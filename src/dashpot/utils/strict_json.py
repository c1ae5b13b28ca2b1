"""JSON that every reader takes: numbers that are not finite are written as texts."""

from __future__ import annotations

import json
import math
from typing import Any

__all__ = ["encode"]


def encode(line: dict[str, Any]) -> str:
    """An object in one line, without spaces; nan and infinities become "nan", "inf" and "-inf".

    >>> encode({"kind": "steps", "loss": [0.5, float("nan")]})
    '{"kind":"steps","loss":[0.5,"nan"]}'
    """
    return json.dumps(_strict(line), separators=(",", ":"), allow_nan=False)


def _strict(value: Any) -> Any:
    """`value` with tuples as lists and numbers that are not finite as strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
