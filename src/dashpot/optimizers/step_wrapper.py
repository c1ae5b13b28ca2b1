"""Who watches a step: hooks, a profiler, Dynamo. Mostly nobody, and a small model feels what watching costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

__all__ = ["annotated_where_watched", "is_traced"]

_is_profiled = torch.autograd._profiler_enabled  # pyright: ignore[reportPrivateImportUsage]


def annotated_where_watched(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` inside torch's wrapper with hooks and a profiler's annotation where there is a hook or a profiler.

    The annotation costs a small model a fifth of a step, profiler or not.
    """
    annotated = torch.optim.Optimizer.profile_hook_step(step)

    @wraps(step)
    def watched(self: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or _is_profiled() or _has_hooks(self):
            return annotated(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    return watched


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def is_traced() -> bool:
    """Whether Dynamo looks at frames that begin now; `torch.compiler.disable` costs a small step a tenth of it."""
    if torch.compiler.is_dynamo_compiling():
        return True
    frames = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    callback = getattr(frames, "get_eval_frame_callback", None)
    return callback is None or callback() is not None
