"""Warnings about a slower engine than the one that was asked for."""

from __future__ import annotations

from dashpot.engine.native.untraceable import UntraceableError
from dashpot.utils.warn import warn

__all__ = ["warn_uncompiled"]

_warned: set[str] = set()


def warn_uncompiled(error: UntraceableError) -> None:
    """Warn, once for each cause in a process, that `engine="compiled"` was asked for and a recipe has no kernel."""
    where = f" ({error.frame})" if error.frame else ""
    cause = f"{error}{where} cannot be compiled"
    if cause in _warned:
        return
    _warned.add(cause)
    warn(
        f'{cause}, so engine="compiled" steps these parameters in the slower eager engine, with the same results; '
        f'{error.hint}, or ask for engine="auto". dashpot.explain_engine(optimizer) names the engine of every tensor.',
        RuntimeWarning,
    )
