"""Checks of mesh_worker.py that are slow tests, and subjects of its fast tests."""

SUBJECTS_OF_TWO_RANKS = (
    "adamw-decay",
    "nadam-decay",
    "qhm-debiased",
    "autosgm-1-zero",
    "autosgm-3-debiased",
    "own-stage",
    "scheduled",
    "esgd-2",
    "sophia",
)
"""Subjects with scalars for each tensor, reductions, schedules and products."""

SLOW = ("checkpoint[AdamW-False]", "checkpoint[AdamW-True]", "checkpoint[AutoSGM-False]", "checkpoint[NAdam-True]")
