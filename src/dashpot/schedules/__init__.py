"""Schedules: pure functions of the step for any scalar hyperparameter.

>>> from dashpot.schedules import Cosine, LinearWarmup, Sequence
>>> schedule = Sequence((LinearWarmup(100), Cosine(900, floor=0.1)), milestones=(100,))
>>> schedule.value(0.5, step=550)
0.275
"""

from __future__ import annotations

from dashpot.schedules.adapter import Scheduler
from dashpot.schedules.combine import Product, Sequence
from dashpot.schedules.cycle import Cyclic, OneCycle, OneCycleMomentum
from dashpot.schedules.decay import Constant, Exponential, InverseTime, MultiStep, StepDecay
from dashpot.schedules.names import NAMES, from_name, split_name
from dashpot.schedules.plateau import Plateau
from dashpot.schedules.plotting import plot
from dashpot.schedules.quirks import QUIRKS, OriginalWindow
from dashpot.schedules.ramp import Cosine, CosineRestarts, ExponentialWarmup, Linear, LinearWarmup, Polynomial
from dashpot.schedules.schedule import Schedule
from dashpot.schedules.shapes import SHAPES
from dashpot.schedules.window import Window

__all__ = [
    "NAMES",
    "QUIRKS",
    "SHAPES",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "ExponentialWarmup",
    "InverseTime",
    "Linear",
    "LinearWarmup",
    "MultiStep",
    "OneCycle",
    "OneCycleMomentum",
    "OriginalWindow",
    "Plateau",
    "Polynomial",
    "Product",
    "Schedule",
    "Scheduler",
    "Sequence",
    "StepDecay",
    "Window",
    "from_name",
    "plot",
    "split_name",
]
