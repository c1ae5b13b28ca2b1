"""Check of the pairing of runs: with the same seed, all methods start with the same model and data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from dashpot.runs.records import Run

TOLERANCE = 1e-3
"""Largest relative difference of untrained losses, which differ slightly between machines."""


def pairing_remarks(records: Iterable[Run]) -> tuple[str, ...]:
    """Return a remark if untrained models with the same seed have different losses.

    They differ if the task, its data or its random state has changed between the runs; comparisons within a seed are
    then invalid.
    """
    by_seed: dict[int, list[Run]] = {}
    for run in records:
        by_seed.setdefault(run.seed, []).append(run)
    for seed, runs in sorted(by_seed.items()):
        losses = sorted(loss for run in runs if (loss := _untrained_loss(run)) is not None)
        if _differ(losses):
            return (
                f"The untrained models of seed {seed} differ between runs (loss {losses[0]:.4g} to {losses[-1]:.4g}): "
                "the task or its data changed during the study, or the task does not seed its model; repeat the study "
                "in a new folder.",
            )
    return ()


def _untrained_loss(run: Run) -> float | None:
    """Return the loss of the untrained model; None if it was not evaluated or is not finite."""
    initial = run.initial or {}
    means = initial.get("eval") or initial.get("train") or {}
    loss = means.get("loss")
    return float(loss) if loss is not None and math.isfinite(loss) else None


def _differ(losses: Sequence[float]) -> bool:
    return bool(losses) and losses[-1] - losses[0] > TOLERANCE * max(abs(losses[0]), abs(losses[-1]))
