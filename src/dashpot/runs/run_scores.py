"""Scores of a recorded run: on the data of the verdict, and on the validation data."""

from __future__ import annotations

import math
from typing import Any

from dashpot.runs.records import Run


def verdict_score(run: Run) -> float | None:
    """Return the score on the data of the verdict, which the header names as `score.split`.

    The score of a diverged run is that of its untrained model. Failed, pruned and unfinished runs have none, and scores
    that are not finite are none.
    """
    score = run.header["score"]
    if run.status not in ("done", "diverged"):
        return None
    if score.get("split") == "test":
        return _value(run.end, "test", score["metric"])
    return validation_score(run)


def validation_score(run: Run) -> float | None:
    """Return the score on the validation data, or in the last interval if there are none; see `verdict_score`."""
    score = run.header["score"]
    if run.status == "diverged":
        return _value(run.initial, score["phase"], score["metric"])
    return _value(run.epochs[-1], score["phase"], score["metric"]) if run.status == "done" and run.epochs else None


def _value(line: dict[str, Any] | None, phase: str, metric: str) -> float | None:
    value = (line or {}).get(phase, {}).get(metric)
    return float(value) if value is not None and math.isfinite(value) else None
