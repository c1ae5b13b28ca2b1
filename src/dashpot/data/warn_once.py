"""Warnings that are logged only once per process."""

from __future__ import annotations

import functools
import logging

_log = logging.getLogger("dashpot.data")


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning only once per process, since a process may load the same data many times."""
    _log.warning(message)
