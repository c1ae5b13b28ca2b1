"""Warnings attributed to the user's code."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

import numpy as np
import torch

_INNER = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(str(torch.__file__)).parent))
_HELPERS = (contextlib.__file__, functools.__file__)
_is_muted: ContextVar[bool] = ContextVar("_is_muted", default=False)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that points to the innermost frame outside dashpot and torch."""
    if torch.compiler.is_compiling():  # Dynamo cannot trace sys._getframe
        warnings.warn(message, category, stacklevel=2)
        return
    if _is_muted.get():
        return
    frame = _user_frame(sys._getframe(1))
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    name = frame.f_globals.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, name, registry)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Issue no warnings of dashpot and of NumPy's arithmetic, for measurements of runs that do not issue them.

    The filters of `warnings` remain unchanged, since a change would repeat warnings of the run.
    """
    token = _is_muted.set(True)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _is_muted.reset(token)


def _user_frame(frame: FrameType) -> FrameType:
    """Return the innermost frame of the user's code, or the outermost frame without any."""
    while frame.f_back is not None and _is_inner(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _is_inner(file: str) -> bool:
    return file.startswith(_INNER) or file in _HELPERS
