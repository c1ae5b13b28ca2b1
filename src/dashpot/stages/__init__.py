"""The stages of an update rule, in the order in which they usually stand in a recipe."""

from dashpot.stages.adaptive import AdaptiveClip
from dashpot.stages.base import Clock, Context, Signal, Slot, Stage, elementwise, per_tensor
from dashpot.stages.compat import Negate, NudgeSmallWeights
from dashpot.stages.decay import ChangeDecay, CoupledDecay, DecoupledDecay
from dashpot.stages.denominator import CenteredMoment, SecondMoment
from dashpot.stages.filter import Filter, NesterovMoment
from dashpot.stages.numerator import HuberParcor, MomentRate, Parcor
from dashpot.stages.robust import HuberClip

__all__ = [
    "AdaptiveClip",
    "CenteredMoment",
    "ChangeDecay",
    "Clock",
    "Context",
    "CoupledDecay",
    "DecoupledDecay",
    "Filter",
    "HuberClip",
    "HuberParcor",
    "MomentRate",
    "Negate",
    "NesterovMoment",
    "NudgeSmallWeights",
    "Parcor",
    "SecondMoment",
    "Signal",
    "Slot",
    "Stage",
    "elementwise",
    "per_tensor",
]
