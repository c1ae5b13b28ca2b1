"""One optimizer made of several, each for its own parameters of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from dashpot.constraints import shown
from dashpot.errors import ArgumentError


class CombinedOptimizer(Optimizer):
    """Several torch optimizers, each over its own parameters, as one optimizer.

    A step is one step of every part. The parameter groups are those of the parts, in order, so that schedules and
    clipping apply to all of them; the state is saved and loaded as that of one optimizer.

    Args:
        parts: Optimizers without common parameters, at least one.
        roles: What each part updates, for records, such as "hidden matrices". Default: no descriptions.

    Raises:
        ArgumentError: If a part is not a torch optimizer, there is none, or a parameter belongs to two parts.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> weights = torch.optim.SGD([model.weight], lr=0.1, momentum=0.9)
        >>> biases = torch.optim.Adam([model.bias], lr=0.01)
        >>> optimizer = CombinedOptimizer([weights, biases], ["weights", "biases"])
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.01]
    """

    def __init__(self, parts: Sequence[Optimizer], roles: Sequence[str] = ()) -> None:
        self.parts, self.roles = list(parts), list(roles)
        if not self.parts or not all(isinstance(part, Optimizer) for part in self.parts):
            raise ArgumentError(
                f"CombinedOptimizer: parts must be one or more torch optimizers, got {shown(self.parts)}."
            )
        self._sizes = [len(part.param_groups) for part in self.parts]
        params = [p for part in self.parts for group in part.param_groups for p in group["params"]]
        if len(set(params)) < len(params):
            raise ArgumentError("CombinedOptimizer: parts must not have parameters in common.")
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self.defaults = {name: value for part in reversed(self.parts) for name, value in part.defaults.items()}
        for part in self.parts:
            self.state.update(part.state)
        self._link()

    def _link(self) -> None:
        """Give the groups and the state of this optimizer to its parts."""
        ends = list(accumulate(self._sizes))
        for part, size, end in zip(self.parts, self._sizes, ends, strict=True):
            part.param_groups, part.state = self.param_groups[end - size : end], self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step every part, after evaluating the closure if one is given; return its result."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for part in self.parts:
            part.step()
        return result

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of all parts."""
        super().load_state_dict(state_dict)
        self._link()

    def __getstate__(self) -> dict[str, Any]:
        own = {name: vars(self)[name] for name in ("parts", "roles", "_sizes")}
        return {**super().__getstate__(), **own}  # deepcopy and pickle use this state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of a part, during construction only.

        Raises:
            ArgumentError: If the optimizer has been constructed.
        """
        if len(self.param_groups) == sum(self._sizes):
            raise ArgumentError("CombinedOptimizer: groups must be added to the parts, before they are combined.")
        super().add_param_group(param_group)


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters of an optimizer, in the order of its groups."""
    return [p for group in optimizer.param_groups for p in group["params"]]
