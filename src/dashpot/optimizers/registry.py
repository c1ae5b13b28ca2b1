"""Table of the named methods, by the names that the command line and comparisons use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dashpot.constraints import unknown
from dashpot.optimizers.adam_variants import CenteredAdam, QHAdam
from dashpot.optimizers.autosgm import AutoSGM
from dashpot.optimizers.base import Optimizer
from dashpot.optimizers.momentum import NAG, QHM, HeavyBall
from dashpot.optimizers.second_order import ESGD, AdaHessian, Sophia
from dashpot.optimizers.torch_compatible import SGD, Adam, AdamW, NAdam, RMSprop


@dataclass(frozen=True)
class Method:
    """A row of the table of methods.

    Args:
        cls: The optimizer class.
        lr: Learning rate for tasks without a tuned learning rate.
        variants: Settings for additional entries of a comparison, by name.
    """

    cls: type[Optimizer]
    lr: float
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    "sgd": Method(SGD, lr=0.1),
    "heavy-ball": Method(HeavyBall, lr=0.01),
    "nag": Method(NAG, lr=0.01),
    "qhm": Method(QHM, lr=0.1),
    "rmsprop": Method(RMSprop, lr=1e-3),
    "adam": Method(Adam, lr=1e-3),
    "adamw": Method(AdamW, lr=1e-3),
    "nadam": Method(NAdam, lr=1e-3),
    "qhadam": Method(QHAdam, lr=1e-3),
    "centered-adam": Method(CenteredAdam, lr=1e-3),
    "autosgm": Method(AutoSGM, lr=1e-3, variants={f"autosgm-{n}": {"numerator": n} for n in range(5)}),
    "esgd": Method(ESGD, lr=0.1),
    "adahessian": Method(AdaHessian, lr=0.03),
    "sophia": Method(Sophia, lr=1e-3),
}

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    variant: (name, settings) for name, method in METHODS.items() for variant, settings in method.variants.items()
}
"""For each name of a variant, the pair (method name, settings)."""


def get(name: str) -> type[Optimizer]:
    """Return the optimizer class of a method.

    Raises:
        ArgumentError: If no method has this name. The message suggests the most similar name.

    Example:
        >>> get("adamw").__name__
        'AdamW'
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name].cls
