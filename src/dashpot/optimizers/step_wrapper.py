"""Who watches a step: hooks, a profiler, Dynamo. Mostly nobody, and a small model feels what watching costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from dashpot._torch_private import has_step_hooks, is_dynamo_active, is_profiling

__all__ = ["hook_step_if_needed", "is_dynamo_tracing"]


def hook_step_if_needed(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` inside torch's wrapper with hooks and a profiler's annotation where there is a hook or a profiler.

    The annotation costs a small model a fifth of a step, profiler or not.
    """
    annotated = torch.optim.Optimizer.profile_hook_step(step)

    @wraps(step)
    def watched(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or is_profiling() or has_step_hooks(self):
            return annotated(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    return watched


def is_dynamo_tracing() -> bool:
    """Whether Dynamo looks at frames that begin now; `torch.compiler.disable` costs a small step a tenth of it."""
    return torch.compiler.is_dynamo_compiling() or is_dynamo_active()
