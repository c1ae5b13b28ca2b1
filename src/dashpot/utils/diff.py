"""Differences between saved and current plain data."""

from __future__ import annotations

import json
from typing import Any


def diff_data(saved: Any, current: Any, path: str = "") -> list[str]:
    """Return one phrase for each value that differs between two nested dicts.

    >>> diff_data({"epochs": 2, "seeds": [0]}, {"epochs": 3, "seeds": [0], "lr": 0.1})
    ['epochs: saved 2, current 3', 'lr: saved nothing, current 0.1']
    """
    if not (isinstance(saved, dict) and isinstance(current, dict)):
        return [] if saved == current else [f"{path}: saved {json.dumps(saved)}, current {json.dumps(current)}"]
    found = []
    for key in {**saved, **current}:
        name = f"{path}.{key}" if path else key
        if key in saved and key in current:
            found += diff_data(saved[key], current[key], name)
        else:
            values = [json.dumps(data[key]) if key in data else "nothing" for data in (saved, current)]
            found.append(f"{name}: saved {values[0]}, current {values[1]}")
    return found
