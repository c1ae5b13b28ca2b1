"""Plan of one item of a study: which entry is trained with which seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dashpot.runs.entry import Entry


@dataclass(frozen=True)
class RunPlan:
    """One training run of a study.

    Attributes:
        key: Key of the item: `trial/METHOD/NUMBER`, `run/METHOD/SEED` or `rate/METHOD/FACTOR/SEED`.
        kind: "trial", "run" or "rate".
        entry: Entry with its settings applied.
        seed: Seed of weights, order and noise.
        values: Tuned settings by name, such as {"lr": 0.01, "momentum": 0.9}; empty without tuning.
    """

    key: str
    kind: str
    entry: Entry
    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
