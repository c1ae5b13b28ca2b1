"""A step that fails leaves weights, state and counts as they were before it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import disable_torch_function
from dashpot.engine.group_step import Step
from dashpot.engine.layout import is_plain
from dashpot.engine.stage_errors import is_custom_stage
from dashpot.recipes.recipe import Recipe

__all__ = ["Undo", "has_custom_stages", "restore_on_error"]


class Undo:
    """Takes back the state that is made for a step which is not taken."""

    def __init__(self, states: MutableMapping[Tensor, dict[str, Any]]) -> None:
        self._states = states
        self._before: list[tuple[Tensor, dict[str, Any] | None]] = []

    def remember(self, p: Tensor) -> None:
        """Keep what the state of `p` is now."""
        self._before.append((p, dict(self._states[p]) if p in self._states else None))

    def __call__(self) -> None:
        for p, before in reversed(self._before):
            if before is None:
                self._states.pop(p, None)
            else:
                self._states[p].clear()
                self._states[p].update(before)


@contextmanager
def restore_on_error(step: Step, positions: Sequence[int]) -> Iterator[None]:
    """Put weights and state of `positions` back where an error ends the block.

    Only for what can fail on the way, a user's stage or a tensor subclass: the copies cost as much memory as the
    tensors themselves.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    if any(_can_fail(step, i) for i in positions):
        kept = [(x, x.detach().clone()) for i in positions for x in _written(step, i)]
    try:
        yield
    except BaseException:
        with torch.no_grad(), disable_torch_function():
            for x, before in kept:
                x.copy_(before)
        raise


def _can_fail(step: Step, i: int) -> bool:
    return not is_plain(type(step.params[i])) or has_custom_stages(step.part_of()[i].recipe)


def has_custom_stages(recipe: Recipe) -> bool:
    """True where a stage is not dashpot's own: it may fail, or draw at random."""
    return any(is_custom_stage(type(stage)) for stage in recipe.stages)


def _written(step: Step, i: int) -> list[Tensor]:
    return [step.params[i], *(x for x in step.states[i].values() if isinstance(x, Tensor))]
