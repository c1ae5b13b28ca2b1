"""Stages of an update rule, in their usual order in a recipe."""

from dashpot.stages.autosgm_quirks import Negate, NudgeSmallWeights
from dashpot.stages.base import Clock, Context, Observation, Signal, Slot, Stage, elementwise, per_tensor
from dashpot.stages.clipping import AdaptiveClip, ClipElements, HuberClip
from dashpot.stages.curvature import Curvature
from dashpot.stages.decay import ChangeDecay, CoupledDecay, DecoupledDecay
from dashpot.stages.denominator import CenteredMoment, SecondMoment
from dashpot.stages.filter import Filter, NesterovMoment
from dashpot.stages.numerator import HuberParcor, MomentRate, Parcor
from dashpot.stages.rate_decay import RateDecay
from dashpot.stages.warmup import Warmup

__all__ = [
    "AdaptiveClip",
    "CenteredMoment",
    "ChangeDecay",
    "ClipElements",
    "Clock",
    "Context",
    "CoupledDecay",
    "Curvature",
    "DecoupledDecay",
    "Filter",
    "HuberClip",
    "HuberParcor",
    "MomentRate",
    "Negate",
    "NesterovMoment",
    "NudgeSmallWeights",
    "Observation",
    "Parcor",
    "RateDecay",
    "SecondMoment",
    "Signal",
    "Slot",
    "Stage",
    "Warmup",
    "elementwise",
    "per_tensor",
]
