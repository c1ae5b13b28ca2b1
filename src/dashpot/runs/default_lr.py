"""Default methods of a comparison, and the tuned learning rate of each method and task.

The rates come from the sweep recorded in docs/compare.md. The sweep uses the validation data, one seed that comparisons
do not use by default, and a grid in which each rate is about 3 times the previous one. Other tasks use the generic rate
from `dashpot.optimizers.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping

from dashpot.optimizers.registry import METHODS, VARIANTS

DEFAULT_METHODS: tuple[str, ...] = (
    "sgd",
    "heavy-ball",
    "nag",
    "rmsprop",
    "adam",
    "adamw",
    "autosgm-0",
    "autosgm-1",
    "autosgm-3",
)
"""Methods that are compared if none are given."""

TUNED_LR: Mapping[str, Mapping[str, float]] = {
    "digits": {
        "sgd": 1.0,
        "heavy-ball": 0.1,
        "nag": 0.1,
        "qhm": 1.0,
        "rmsprop": 0.003,
        "adagrad": 0.1,
        "adam": 0.01,
        "adamw": 0.01,
        "nadam": 0.03,
        "qhadam": 0.01,
        "centered-adam": 0.01,
        "autosgm-0": 0.03,
        "autosgm-1": 0.03,
        "autosgm-2": 0.01,
        "autosgm-3": 1.0,
        "autosgm-4": 0.01,
        "esgd": 0.1,
        "adahessian": 0.1,
        "sophia": 0.001,
    },
    "fashion-mnist": {
        "sgd": 0.3,
        "heavy-ball": 0.03,
        "nag": 0.1,
        "qhm": 1.0,
        "rmsprop": 0.003,
        "adagrad": 0.03,
        "adam": 0.01,
        "adamw": 0.003,
        "nadam": 0.01,
        "qhadam": 0.01,
        "centered-adam": 0.01,
        "autosgm-0": 0.003,
        "autosgm-1": 0.03,
        "autosgm-2": 0.03,
        "autosgm-3": 1.0,
        "autosgm-4": 0.03,
        "esgd": 0.3,
        "adahessian": 0.03,
        "sophia": 0.001,
    },
    "quadratic": {
        "sgd": 1.0,
        "heavy-ball": 0.3,
        "nag": 1.0,
        "qhm": 3.0,
        "rmsprop": 0.1,
        "adagrad": 1.0,
        "adam": 0.1,
        "adamw": 0.1,
        "nadam": 0.1,
        "qhadam": 0.3,
        "centered-adam": 0.3,
        "autosgm-0": 0.1,
        "autosgm-1": 0.1,
        "autosgm-2": 0.1,
        "autosgm-3": 30,
        "autosgm-4": 0.3,
        "esgd": 10,
        "adahessian": 0.1,
        "sophia": 0.03,
    },
    "noisy-quadratic": {
        "sgd": 0.1,
        "heavy-ball": 0.03,
        "nag": 0.03,
        "qhm": 0.3,
        "rmsprop": 0.01,
        "adagrad": 0.3,
        "adam": 0.03,
        "adamw": 0.03,
        "nadam": 0.03,
        "qhadam": 0.03,
        "centered-adam": 0.03,
        "autosgm-0": 0.03,
        "autosgm-1": 0.03,
        "autosgm-2": 0.03,
        "autosgm-3": 1.0,
        "autosgm-4": 0.03,
        "esgd": 0.01,
        "adahessian": 0.01,
        "sophia": 0.01,
    },
    "rosenbrock": {
        "sgd": 0.001,
        "heavy-ball": 0.001,
        "nag": 0.001,
        "qhm": 0.003,
        "rmsprop": 0.01,
        "adagrad": 1.0,
        "adam": 0.3,
        "adamw": 1.0,
        "nadam": 0.03,
        "qhadam": 0.1,
        "centered-adam": 1.0,
        "autosgm-0": 0.3,
        "autosgm-1": 1.0,
        "autosgm-2": 10,
        "autosgm-3": 100,
        "autosgm-4": 0.1,
        "esgd": 10,
        "adahessian": 3.0,
        "sophia": 0.03,
    },
    "saddle": {
        "sgd": 0.3,
        "heavy-ball": 0.3,
        "nag": 0.1,
        "qhm": 3.0,
        "rmsprop": 0.03,
        "adagrad": 0.3,
        "adam": 0.03,
        "adamw": 0.3,
        "nadam": 0.1,
        "qhadam": 0.1,
        "centered-adam": 0.01,
        "autosgm-0": 0.03,
        "autosgm-1": 0.3,
        "autosgm-2": 0.1,
        "autosgm-3": 3.0,
        "autosgm-4": 0.3,
        "esgd": 3.0,
        "adahessian": 3.0,
        "sophia": 0.03,
    },
}
"""Rates from the sweep by task and method; methods that did not train at any rate of the grid are omitted."""


def default_lr(task: str, method: str) -> float:
    """Return the learning rate of a method or variant that is tuned for `task`, else the generic rate of the method.

    Example:
        >>> default_lr("digits", "autosgm-3"), default_lr("unknown task", "autosgm-3")
        (1.0, 0.001)
    """
    tuned = TUNED_LR.get(task, {})
    family, _ = VARIANTS.get(method, (method, {}))
    return tuned.get(method, tuned.get(family, METHODS[family].lr))
