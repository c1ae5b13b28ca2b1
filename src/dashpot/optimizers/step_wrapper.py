"""Conditional wrapping of `step` for hooks, profiler and Dynamo, because wrappers are slow for small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from dashpot._torch_private import has_step_hooks, is_dynamo_active, is_profiling


def hook_step_if_needed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `step` to run hooks and annotate profiles as torch does, but only if a hook or a profiler exists.

    Even without a profiler, the annotation would take a fifth of the step time of a small model.
    """
    annotated = torch.optim.Optimizer.profile_hook_step(step)

    @wraps(step)
    def wrapper(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or is_profiling() or has_step_hooks(self):
            return annotated(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    return wrapper


def is_dynamo_tracing() -> bool:
    """Check whether Dynamo would trace a call; if not, `torch.compiler.disable` would waste a tenth of a small step."""
    return torch.compiler.is_dynamo_compiling() or is_dynamo_active()
