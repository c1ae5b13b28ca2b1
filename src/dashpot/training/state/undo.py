"""Undoing of a partial restore."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from dashpot.errors import DashpotError, RunError
from dashpot.utils.format import reason
from dashpot.utils.stateful import is_stateful

Undo = Callable[[], None]


@contextmanager
def undone_on_error() -> Iterator[list[Undo]]:
    """Yield a list of functions that are called in reverse order if the block raises an exception.

    Exceptions other than dashpot's are raised as `RunError`.

    >>> value = [1]
    >>> try:
    ...     with undone_on_error() as undo:
    ...         undo.append(value.clear)
    ...         value.append(1 / 0)
    ... except RunError as error:
    ...     print(value, error)
    [] The state to resume from cannot be loaded: division by zero. Nothing was changed.
    """
    undo: list[Undo] = []
    try:
        yield undo
    except BaseException as error:
        for function in reversed(undo):
            function()
        if isinstance(error, DashpotError) or not isinstance(error, Exception):
            raise
        raise RunError(f"The state to resume from cannot be loaded: {reason(error)}. Nothing was changed.") from error


def attributes_of(owner: Any, *names: str) -> Undo:
    """Return a function that restores the named attributes of an object; without names, all attributes."""
    before = {name: getattr(owner, name) for name in names or vars(owner)}
    return lambda: vars(owner).update(before)


def object_state(owner: Any) -> Undo:
    """Return a function that restores all attributes of an object.

    This includes the contents of lists, dicts and sets, and the states of objects with `state_dict` and
    `load_state_dict`, such as schedulers. Models, optimizers, learners and other callbacks are not restored.
    """
    before = dict(vars(owner))
    contents = [(value, copy.copy(value)) for value in before.values() if isinstance(value, (list, dict, set))]
    states = [(value, copy.deepcopy(value.state_dict())) for value in before.values() if _has_own_state(value)]

    def restore() -> None:
        vars(owner).clear()
        vars(owner).update(before)
        for value, content in contents:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
        for value, state in states:
            value.load_state_dict(state)

    return restore


def _has_own_state(value: Any) -> bool:
    own = isinstance(value, (nn.Module, Optimizer)) or hasattr(value, "fit") or hasattr(value, "state_schema")
    return not own and is_stateful(value)
