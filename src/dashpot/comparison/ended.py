"""End of an item of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dashpot.runs.compact_record import compact_record
from dashpot.runs.records import Run
from dashpot.runs.run_scores import validation_score, verdict_score


@dataclass(frozen=True)
class Ended:
    """End of an item.

    Attributes:
        status: "done", "diverged", "failed" or "pruned".
        score: For a trial, the final score on the validation data, which is None unless the status is "done"; otherwise
            the score on the data of the verdict, which for a diverged run is that of the untrained model, or None.
        data: The compact record as {"record": text}.
    """

    status: str
    score: float | None
    data: dict[str, Any] = field(default_factory=dict)


def ended(run: Run, kind: str) -> Ended:
    """Return the end of a finished record of an item of a kind, "trial", "run" or "rate"."""
    is_unscored = kind == "trial" and run.status != "done"
    score = None if is_unscored else validation_score(run) if kind == "trial" else verdict_score(run)
    return Ended(run.status, score, {"record": compact_record(run)})
