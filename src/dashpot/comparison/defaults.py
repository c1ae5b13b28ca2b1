"""Which methods are compared, and the learning rate each one starts with: plain data.

The rates of a task were found by the sweep of docs/compare.md: one seed that no comparison uses by default, a grid of
factors of about 3, the best evaluation metric after the last epoch. A task without rates of its own takes `GENERIC_LR`.
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
}
"""Rates for a task nobody has tuned: the usual first guesses. A variant such as `autosgm-3` takes its method's."""

TUNED_LR: Mapping[str, Mapping[str, float]] = {}
"""Task name -> method -> rate, from the sweep."""


def default_lr(task: str, method: str) -> float:
    """The learning rate `method` starts with on `task`.

    >>> default_lr("a task of your own", "autosgm-3")
    0.001
    """
    tuned = TUNED_LR.get(task, {})
    family = "autosgm" if method.startswith("autosgm-") else method
    return tuned.get(method, tuned.get(family, GENERIC_LR[family]))
