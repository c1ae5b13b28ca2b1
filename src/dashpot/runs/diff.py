"""Differences between two pieces of plain data."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["diff_data"]


def diff_data(there: Any, here: Any, path: str = "") -> list[str]:
    """What differs between two pieces of plain data, one phrase each.

    >>> diff_data({"epochs": 2, "seeds": [0]}, {"epochs": 3, "seeds": [0]})
    ['epochs is 2 there and 3 here']
    """
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for key in [*there, *(key for key in here if key not in there)]:
            place = f"{path}.{key}" if path else key
            if key not in here:
                found.append(f"{place} is only there")
            elif key not in there:
                found.append(f"{place} is only here")
            else:
                found += diff_data(there[key], here[key], place)
        return found
    return [] if there == here else [f"{path} is {json.dumps(there)} there and {json.dumps(here)} here"]
