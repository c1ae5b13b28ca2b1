"""Checks of mesh_worker.py that are slow tests, and subjects of its fast tests."""

SUBJECTS_OF_TWO_RANKS = (
    "adamw-decay",
    "autosgm-1-zero",
    "own-stage",
    "scheduled",
    "sophia",
)
"""Subjects with reductions, slots and scalars for each tensor, schedules and products."""

SLOW = (
    "compiled[nadam]",
    "nonfinite[eager-0-raise]",
    "nonfinite[eager-3-skip]",
    "nonfinite[eager-4-skip]",
    "nonfinite[eager-4-raise]",
    "nonfinite[compiled-0-skip]",
    "nonfinite[compiled-3-skip]",
    "nonfinite[compiled-3-raise]",
    "nonfinite[compiled-4-raise]",
    "nonfinite_replicas[0-raise]",
    "nonfinite_replicas[3-skip]",
    "fully_shard[NAdam]",
    "checkpoint[AdamW-False]",
    "checkpoint[AdamW-True]",
    "checkpoint[AutoSGM-False]",
    "checkpoint[NAdam-True]",
    "hybrid_sharding[1-adamw-decay]",
    "hybrid_sharding[1-autosgm-1-debiased]",
    "hybrid_sharding[2-adamw-decay]",
    "hybrid_sharding[2-autosgm-4-zero]",
)
