"""Keys of the items of a study, from its settings as plain data.

The keys are `trial/METHOD/NUMBER`, `run/METHOD/SEED` and `rate/METHOD/FACTOR/SEED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def trial_keys(settings: Mapping[str, Any], method: str | None = None) -> list[str]:
    """Return the keys of all tuning trials, or of those of a method, ordered by number and then by method."""
    tuning = settings["tuning"]
    methods = [name for name in settings["methods"] if tuning["spaces"].get(name) and method in (None, name)]
    return [f"trial/{name}/{number}" for number in range(tuning["budget"] if methods else 0) for name in methods]


def run_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys of all judged runs, ordered by seed and then by method."""
    return [f"run/{name}/{seed}" for seed in settings["seeds"] for name in settings["methods"]]


def rate_keys(settings: Mapping[str, Any]) -> list[str]:
    """Return the keys of all runs at wrong learning rates, ordered by seed, factor and method."""
    rates = settings["rates"]
    return [
        f"rate/{name}/{factor:g}/{seed}"
        for seed in rates["seeds"]
        for factor in rates["factors"]
        for name in settings["methods"]
    ]


def record_path(key: str) -> Path:
    """Return the path of the record of an item, relative to the folder of the study.

    >>> [str(record_path(key)) for key in ("trial/adam/3", "run/adam/0", "rate/adam/0.1/0")]
    ['tuning/adam-trial3.jsonl', 'runs/adam-seed0.jsonl', 'sensitivity/adam-x0.1-seed0.jsonl']
    """
    kind, method, *rest = key.split("/")
    if kind == "trial":
        return Path("tuning", f"{method}-trial{rest[0]}.jsonl")
    if kind == "run":
        return Path("runs", f"{method}-seed{rest[0]}.jsonl")
    return Path("sensitivity", f"{method}-x{rest[0]}-seed{rest[1]}.jsonl")
