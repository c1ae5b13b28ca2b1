"""Synthetic grids of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashpot.comparison.zero_cells import Cell, Grid
from dashpot.stats.differences import mean_interval

RATES = (0.01, 0.03, 0.1)
FACTS: Mapping[str, Any] = {
    "task": "digits",
    "description": "a network on digits",
    "parameters": 14538,
    "config": {"batch_size": 50},
    "metric": "loss",
    "direction": "min",
    "split": "test",
    "margin": 0.01,
    "epochs": 2,
    "steps": 48,
    "evaluate_every": 4,
    "seeds": [0, 1, 2],
    "tuning_seed": 1000,
    "rates": list(RATES),
    "call": "dashpot.AutoSGM(model.parameters(), lr=0.01)",
    "command": "dashpot reproduce autosgm",
    "cpu_s": 12.5,
    "versions": {"torch": "2.13.0"},
    "machine": {"processor": "a processor", "threads": 1, "cores": 2, "system": "Linux"},
    "started": "2026-11-30T20:00:00+00:00",
}


def cell(numerator: int, zero: str, scores: Sequence[float | None], **changes: Any) -> Cell:
    """Return a cell whose validation scores equal its scores, and whose best ones are lower by .01."""
    known = [score for score in scores if score is not None]
    mean = mean_interval(known) if len(known) > 1 else None
    fields: dict[str, Any] = {
        "zero": zero,
        "numerator": numerator,
        "lr": 0.03,
        "trials": (0.5, 0.4, None),
        "status": tuple("unfinished" if score is None else "done" for score in scores),
        "score": tuple(scores),
        "validation": tuple(scores),
        "best": tuple(None if score is None else score - 0.01 for score in scores),
        "best_step": tuple(None if score is None else 40 for score in scores),
        "train_loss": tuple(None if score is None else score - 0.2 for score in scores),
        "test_loss": tuple(scores),
        "mean": None if mean is None else mean.estimate,
        "low": None if mean is None else mean.low,
        "high": None if mean is None else mean.high,
    }
    return Cell(**{**fields, **changes})


def grid(differences: Mapping[str, float], *, noise: float = 0.002, facts: Mapping[str, Any] = FACTS) -> Grid:
    """Return a grid in which numerator 1 differs from the constant one by the given difference at each zero."""
    draw = np.random.default_rng(0)
    cells = []
    for zero, difference in differences.items():
        for numerator in (0, 1):
            scores = 1 + numerator * difference + noise * draw.standard_normal(3)
            cells.append(cell(numerator, zero, scores.tolist()))
    return Grid("digits", "smoke", facts, tuple(cells))
