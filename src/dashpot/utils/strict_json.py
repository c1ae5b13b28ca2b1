"""Strict JSON: non-finite numbers are encoded as strings."""

from __future__ import annotations

import json
import math
from typing import Any


def encode(line: dict[str, Any]) -> str:
    """Encode an object on one line without spaces; NaN and infinities become "nan", "inf" and "-inf".

    >>> encode({"kind": "steps", "loss": [0.5, float("nan")]})
    '{"kind":"steps","loss":[0.5,"nan"]}'
    """
    return json.dumps(strict(line), separators=(",", ":"), allow_nan=False)


def decode(text: str | bytes) -> Any:
    """Decode strict JSON: the constants NaN and Infinity are rejected.

    Raises:
        ValueError: If the text is not strict JSON, or is nested too deeply.

    >>> decode('{"loss": ["nan", 0.5]}')
    {'loss': ['nan', 0.5]}
    """
    try:
        return json.loads(text, parse_constant=_reject)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _reject(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def strict(value: Any) -> Any:
    """Convert tuples to lists and non-finite numbers to strings.

    >>> strict({"betas": (0.9, float("inf"))})
    {'betas': [0.9, 'inf']}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value
