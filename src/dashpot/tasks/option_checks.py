"""Range checks for the options of built-in tasks, which run before any data are loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dashpot.constraints import Constraint, Interval, OneOf, check, shown
from dashpot.errors import ArgumentError
from dashpot.utils.format import reason

TIERS = ("smoke", "cpu", "gpu")
"""Sizes of a workload: seconds, minutes on two cores, and the published setting."""

_ALLOWED: Mapping[str, Constraint] = {
    "batch_size": Interval(1, math.inf, "left", integer=True),
    "leak": Interval(0, 1, "left"),
    "shuffle": OneOf((False, True)),
    "dimension": Interval(1, math.inf, "left", integer=True),
    "condition": Interval(1, math.inf, "left"),
    "variance": Interval(0, math.inf, "left"),
    "steps": Interval(1, math.inf, "left", integer=True),
    "validation_size": Interval(0, math.inf, "left", integer=True),
    "tier": OneOf(TIERS),
    "network": OneOf(("resnet", "vit")),
    "checksum": OneOf((False, True)),
}


def check_options(owner: str, *, device: str, **options: Any) -> None:
    """Check the options of the task `owner`.

    Raises:
        ArgumentError: If an option is out of range or `device` is not available.

    >>> check_options("digits", device="cpu", batch_size=0)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: digits: batch_size must be an integer in [1, inf), got 0.
    """
    for name, value in options.items():
        check(owner, name, value, _ALLOWED[name])
    try:
        torch.zeros(1, device=device).item()  # the device meta has no values
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ArgumentError(
            f"{owner}: device must be available to torch, got {shown(device)} ({reason(error)})."
        ) from error
