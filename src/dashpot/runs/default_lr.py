"""Which methods are compared, and the learning rate each one starts with: plain data.

The rates of a task were found by the sweep that docs/compare.md records: one seed that no comparison uses by default, a
grid with steps of about 3. A task without rates of its own takes `GENERIC_LR`.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["DEFAULT_METHODS", "GENERIC_LR", "TUNED_LR", "default_lr"]

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
"""The methods of a comparison that names none."""

GENERIC_LR: Mapping[str, float] = {
    "sgd": 0.1,
    "heavy-ball": 0.01,
    "nag": 0.01,
    "qhm": 0.1,
    "rmsprop": 1e-3,
    "adam": 1e-3,
    "adamw": 1e-3,
    "nadam": 1e-3,
    "qhadam": 1e-3,
    "centered-adam": 1e-3,
    "autosgm": 1e-3,
    "esgd": 0.1,
    "adahessian": 0.03,
    "sophia": 1e-3,
}
"""Rates for a task nobody has tuned: the usual first guesses. A variant such as `autosgm-3` takes its method's."""

TUNED_LR: Mapping[str, Mapping[str, float]] = {
    "digits": {
        "sgd": 0.1,
        "heavy-ball": 0.01,
        "nag": 0.01,
        "qhm": 0.3,
        "rmsprop": 0.01,
        "adam": 0.03,
        "adamw": 0.03,
        "nadam": 0.001,
        "qhadam": 0.003,
        "centered-adam": 0.001,
        "autosgm-0": 0.03,
        "autosgm-1": 0.001,
        "autosgm-2": 0.01,
        "autosgm-3": 0.3,
        "autosgm-4": 0.003,
        "esgd": 0.3,
        "adahessian": 0.1,
        "sophia": 0.001,
    },
    "fashion-mnist": {
        "sgd": 0.3,
        "heavy-ball": 0.1,
        "nag": 0.1,
        "qhm": 1.0,
        "rmsprop": 0.001,
        "adam": 0.01,
        "adamw": 0.01,
        "nadam": 0.003,
        "qhadam": 0.01,
        "centered-adam": 0.01,
        "autosgm-0": 0.01,
        "autosgm-1": 0.01,
        "autosgm-2": 0.1,
        "autosgm-3": 1.0,
        "autosgm-4": 0.01,
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
"""Task name -> method -> rate, from the sweep; a method for which no rate of the grid trained is left out."""


def default_lr(task: str, method: str) -> float:
    """The learning rate `method` starts with on `task`.

    >>> default_lr("a task of your own", "autosgm-3")
    0.001
    """
    tuned = TUNED_LR.get(task, {})
    family = "autosgm" if method.startswith("autosgm-") else method
    return tuned.get(method, tuned.get(family, GENERIC_LR[family]))
