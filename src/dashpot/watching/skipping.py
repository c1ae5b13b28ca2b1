"""Steps that an optimizer skips, because of a gradient scaler or of its option `nonfinite`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dashpot.optimizers.base import Optimizer


def known_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a gradient scaler has found a reason to skip the step, if this needs no synchronization."""
    found = getattr(optimizer, "found_inf", None)
    return bool(found) if found is not None and _is_on_host(found) else False


def step_was_skipped(optimizer: torch.optim.Optimizer) -> Any:
    """Return whether the step that just ended was skipped: a bool, or on an accelerator a 0-d tensor."""
    found: Any = getattr(optimizer, "found_inf", None)
    if isinstance(optimizer, Optimizer) and optimizer._decision is not None:
        found = optimizer._decision.skip
    if found is None:
        return False
    return found.detach().clone() if not _is_on_host(found) else bool(found)


def _is_on_host(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.device.type == "cpu"
