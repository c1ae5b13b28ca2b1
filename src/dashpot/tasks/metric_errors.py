"""Errors of metrics, with the name of the metric and the shapes of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dashpot.constraints import shown
from dashpot.errors import ArgumentError, DashpotError


def evaluated(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return `function(*arguments)`, a call of the metric `name`.

    Args:
        name: Name of the metric.
        function: Function of (output, target), or without arguments for the value over a phase.
        arguments: Output of the model and target, or nothing.

    Raises:
        ArgumentError: If the call raises an error, except errors of dashpot and exits.

    >>> evaluated("score", lambda output, target: output[target], [0, 1], 2)
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: Metric 'score' failed for output [0, 1] and target 2: IndexError: list index ...
    """
    try:
        return function(*arguments)
    except DashpotError:
        raise
    except Exception as error:
        given = " for output {} and target {}".format(*map(shown, arguments)) if arguments else ""
        reason = " ".join(str(error).split()).rstrip(".") or "no message"
        raise ArgumentError(f"Metric {name!r} failed{given}: {type(error).__name__}: {reason[:300]}.") from error
