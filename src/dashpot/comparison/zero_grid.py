"""Studies of the zero and the numerator of AutoSGM, as published: filters with one pole and several zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashpot.runs.study import Study
from dashpot.runs.study_names import StudyNames

ZEROS = ("0", "0.31", "0.47", "0.55", "0.64", "0.85", "0.9", "none")
"""Published zeros of the filter with the pole 0.9; "none" is the unfiltered gradient."""
FEW_ZEROS = ("0", "0.47", "0.9")
TRIALS = 3
"""Number of learning rates, shared by all methods, among which validation data select."""


@dataclass(frozen=True)
class GridPlan:
    """Training of a grid of zeros on one workload and tier.

    Args:
        task: Name of the task.
        options: Options of the task.
        rates: Lowest and highest of the shared learning rates.
        schedule: Schedule of the learning rate; None keeps it constant.
        max_norm: Largest norm of the gradient; None does not clip.
        epochs: Number of epochs; None selects that of the task.
        evaluate_every: Number of steps between evaluations; None selects a twelfth of a run.
        zeros: Default zeros.
    """

    task: str
    options: Mapping[str, object]
    rates: tuple[float, float]
    schedule: str | None = None
    max_norm: float | None = None
    epochs: int | None = None
    evaluate_every: int | None = None
    zeros: tuple[str, ...] = FEW_ZEROS


PLANS: Mapping[str, Mapping[str, GridPlan]] = {
    "shakespeare-char": {
        "cpu": GridPlan(
            "shakespeare-char",
            {"tier": "cpu"},
            (3e-3, 3e-2),
            "warmup-cosine:warmup=0.05,floor=0.1",
            1.0,
            evaluate_every=500,
            zeros=ZEROS,
        ),
    },
}


def method(numerator: int, zero: str) -> str:
    """Return the method of `dashpot compare` with a numerator and a zero.

    >>> method(1, "0.47"), method(0, "none")
    ('autosgm-1:zero=0.47', 'autosgm-0:pole=0')
    """
    return f"autosgm-{numerator}:" + ("pole=0" if zero == "none" else f"zero={zero}")


def entry_name(numerator: int, zero: str) -> str:
    """Return the name of the entry of `method`."""
    return method(numerator, zero).replace(":", "-").replace("=", "-")


def grid_study(
    plan: GridPlan,
    zeros: Sequence[str],
    numerators: Sequence[int] = (0, 1),
    seeds: int = 3,
    *,
    data_dir: Path | None = None,
    threads: int | None = None,
) -> Study:
    """Return the study of all pairs of zeros and numerators."""
    pairs = [(numerator, zero) for zero in zeros for numerator in numerators]
    low, high = plan.rates
    space = {"lr": {"low": low, "high": high, "log": True}}
    return StudyNames(
        plan.task,
        plan.options,
        None if data_dir is None else str(data_dir),
        ",".join(method(*pair) for pair in pairs),
        options={} if plan.max_norm is None else {"max_norm": plan.max_norm},
        schedule=plan.schedule,
        seeds=seeds,
        epochs=plan.epochs,
        design={
            "budget": TRIALS,
            "sampler": "grid",
            "tune": ("lr",),
            "spaces": {entry_name(*pair): space for pair in pairs},
            "rate_seeds": 0,
            "evaluate_every": plan.evaluate_every,
            "threads": threads,
        },
    ).study()
