"""Allowed values of the options of tuning, which the command line checks before it loads torch."""

from __future__ import annotations

import math

from dashpot.constraints import Interval, OneOf

SETTINGS = ("lr", "weight_decay", "momentum", "warmup")
"""Settings that tuning can vary."""
BUDGET = Interval(0, math.inf, "left", integer=True)
SAMPLERS = OneOf(("qmc", "tpe"))
PRUNERS = OneOf(("none", "median"))
