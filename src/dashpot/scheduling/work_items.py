"""Items of a work queue and their outcomes, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashpot.constraints import OneOf, check

STATUSES = ("done", "diverged", "failed", "pruned")


@dataclass(frozen=True)
class WorkItem:
    """Unit of work that is executed once.

    Attributes:
        key: Unique name, such as "trial/adam/3".
        group: Name of the group, an Optuna study of its own, such as "adam": trials of a group share a sampler.
    """

    key: str
    group: str


@dataclass(frozen=True)
class Outcome:
    """Outcome of a finished item.

    Attributes:
        key: Name of the item.
        status: "done", "diverged", "failed" (raised an error) or "pruned".
        score: Score; None if there is none.
        values: Suggested settings by name; empty without `Claim.suggest`.
        data: Further data as given to `Claim.finish`; non-finite numbers have become strings.
    """

    key: str
    status: str
    score: float | None
    values: Mapping[str, float]
    data: Mapping[str, Any]

    def __post_init__(self) -> None:
        check("Outcome", "status", self.status, OneOf(STATUSES))
