"""Exceptions of dashpot; each message is one actionable sentence."""

from __future__ import annotations

__all__ = ["ArgumentError", "CurvatureError", "DashpotError", "DataError", "NonFiniteError", "RunError"]


class DashpotError(Exception):
    """Base class of errors caused by the caller. The command line prints the message and exits with code 2."""


class ArgumentError(DashpotError, ValueError):
    """An argument is out of range, of the wrong type, or unknown."""


class DataError(DashpotError, RuntimeError):
    """A data set is missing, is corrupt or cannot be downloaded."""


class RunError(DashpotError, RuntimeError):
    """A run cannot be started, resumed or saved."""


class NonFiniteError(DashpotError, RuntimeError):
    """A gradient is nan or infinite and the optimizer was created with `nonfinite="raise"`."""


class CurvatureError(DashpotError, RuntimeError):
    """A Hessian-vector product cannot be computed by the requested route."""
