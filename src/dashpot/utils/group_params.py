"""Parameters of an optimizer."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def group_params(optimizer: Any) -> list[Tensor]:
    """Return the parameters of all groups of an optimizer, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]
