"""Calls during the training of an item whose exceptions are not failures of the item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from dashpot.runs.records import Epoch

P = ParamSpec("P")
R = TypeVar("R")


def ignore(_: Any) -> None:
    """Do nothing."""


@dataclass
class GuardedCalls:
    """Functions of the caller of `execute`, and a guard for them and for file operations.

    An exception of a guarded function, such as a full disk or a request to stop, must leave the item unfinished, while
    an exception of the task ends the item as failed.

    Attributes:
        on_step: Function of the number of steps, called after every step.
        on_interval: Function called after every evaluation.
        prune: Function of (number of steps, validation score); None if the item is not pruned.
        raised: The last exception of a guarded function.
    """

    on_step: Callable[[int], None] = ignore
    on_interval: Callable[[Epoch], None] = ignore
    prune: Callable[[int, float], bool] | None = None
    raised: BaseException | None = None

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function, and remember its exception."""
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            self.raised = error
            raise
