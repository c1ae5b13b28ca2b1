"""Lazy import of Optuna, without its log messages and warnings."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dashpot.errors import RunError

_is_quiet: ContextVar[bool] = ContextVar("_is_quiet", default=False)


@functools.cache
def load_optuna() -> Any:
    """Return the module `optuna`.

    Raises:
        RunError: If Optuna is not installed.

    >>> load_optuna().__name__
    'optuna'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
            import optuna.storages.journal
    except ImportError as error:
        raise RunError(f"A study needs optuna: pip install 'dashpot[study]' ({error}).") from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the log messages of Optuna below ERROR that this thread emits inside the block.

    Optuna's verbosity is a setting of the user for the whole process, so that it remains unchanged.
    """
    for handler in logging.getLogger("optuna").handlers:
        handler.addFilter(_is_shown)  # no effect if it is present
    token = _is_quiet.set(True)
    try:
        yield
    finally:
        _is_quiet.reset(token)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or not _is_quiet.get()
