"""The members of an optimizer that a step accesses."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Protocol

from torch import Tensor

from dashpot.engine.backend import Backend
from dashpot.engine.group_step import GroupPlan, Step
from dashpot.optimizers.options import ResolvedOptions


class Steppable(Protocol):
    """The interface of `Optimizer` that the modules `step`, `capturable_step` and `initial_state` use."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[Tensor, Any]
    _backend: Backend

    @property
    def options(self) -> ResolvedOptions: ...

    @property
    def schedule(self) -> dict[str, Any]: ...

    def _plan_group(self, index: int, done: int) -> GroupPlan:
        """Resolve the settings of a group for the step after `done` steps."""
        ...

    def _check_gradient(self, p: Tensor) -> None:
        """Check the gradient of a parameter, and that the parameter's tensors can be written."""
        ...

    def _scaler(self) -> tuple[Any, Any]:
        """Return the loss scale of a `GradScaler`, and whether the scaler found an infinity. Either may be None."""
        ...

    def _has_products(self) -> bool:
        """Return whether this step observes Hessian-vector products."""
        ...

    def _observe_products(self, step: Step) -> None:
        """Update the state from Hessian-vector products before anything else is written."""
        ...
