"""Rollback of a failed or skipped step, which restores weights, state and step counts."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot._torch_private import disable_torch_function
from dashpot.engine.group_step import Step
from dashpot.engine.layout import is_plain
from dashpot.engine.stage_errors import has_custom_stages


class Rollback:
    """Undo log of one step. Calling the object restores the values from before the step.

    Args:
        states: The state of the optimizer.
    """

    def __init__(self, states: MutableMapping[Tensor, dict[str, Any]]) -> None:
        self._states = states
        self._saved_states: list[tuple[Tensor, dict[str, Any] | None]] = []
        self._saved_values: list[tuple[Tensor, Tensor]] = []

    def save_state(self, p: Tensor) -> None:
        """Record the entries in the state of `p` before slots are created."""
        self._saved_states.append((p, dict(self._states[p]) if p in self._states else None))

    def save_values(self, step: Step, positions: Sequence[int]) -> None:
        """Copy the weights and state at `positions` if any of these parameters' steps can fail partway.

        Only steps with custom stages or tensor subclasses can fail. Tensors of other steps are not copied, because the
        copies need as much memory as the tensors.
        """
        groups = step.group_of()
        if any(not is_plain(type(step.params[i])) or has_custom_stages(groups[i].plan.recipe) for i in positions):
            written = (x for i in positions for x in (step.params[i], *step.states[i].values()))
            self._saved_values = [(x, x.detach().clone()) for x in written if isinstance(x, Tensor)]

    def __call__(self) -> None:
        with torch.no_grad(), disable_torch_function():
            for x, before in self._saved_values:
                x.copy_(before)
        for p, before in reversed(self._saved_states):
            if before is None:
                self._states.pop(p, None)
            else:
                self._states[p].clear()
                self._states[p].update(before)
