"""The named methods by the names the command line and the comparison use."""

from __future__ import annotations

from collections.abc import Mapping

from dashpot.constraints import unknown
from dashpot.optimizers.adam_variants import CenteredAdam, QHAdam
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.momentum import NAG, QHM, HeavyBall
from dashpot.optimizers.second_order import ESGD, AdaHessian, Sophia
from dashpot.optimizers.torch_compatible import SGD, Adam, AdamW, NAdam, RMSprop

__all__ = ["METHODS", "get"]

METHODS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD,
    "heavy-ball": HeavyBall,
    "nag": NAG,
    "qhm": QHM,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "qhadam": QHAdam,
    "centered-adam": CenteredAdam,
    "autosgm": AutoSGM,
    "esgd": ESGD,
    "adahessian": AdaHessian,
    "sophia": Sophia,
}


def get(name: str) -> type[Optimizer]:
    """The optimizer class of a method; an unknown name raises `ArgumentError` with the nearest one.

    >>> get("adamw").__name__
    'AdamW'
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]
