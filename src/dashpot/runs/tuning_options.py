"""Allowed values of the options of tuning, which the command line checks before it loads torch."""

from __future__ import annotations

from dashpot.constraints import Interval, OneOf

SETTINGS = ("lr", "weight_decay", "momentum", "warmup")
"""Settings that tuning varies by default."""
ALL_SETTINGS = (*SETTINGS, "beta2")
"""Settings that tuning can vary."""
BUDGET = Interval(0, 10_000, "both", integer=True)
POSITIVE_BUDGET = Interval(1, 10_000, "both", integer=True)
SAMPLERS = OneOf(("qmc", "tpe", "grid"))

Rate = float | tuple[float, float]
"""Learning rate, or the lowest and the highest one of a search."""
