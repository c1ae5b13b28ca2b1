"""The errors dashpot raises on purpose: each message is one sentence a user can act on."""

from __future__ import annotations

__all__ = ["ArgumentError", "CurvatureError", "DashpotError", "DataError", "NonFiniteError", "RunError"]


class DashpotError(Exception):
    """Base of every error that is the caller's to mend; the command line prints it and exits with code 2."""


class ArgumentError(DashpotError, ValueError):
    """An argument is outside its range, of the wrong type, or unknown."""


class DataError(DashpotError, RuntimeError):
    """A data set is missing, damaged or cannot be fetched."""


class RunError(DashpotError, RuntimeError):
    """A run cannot start, go on or be saved."""


class NonFiniteError(DashpotError, RuntimeError):
    """A gradient is nan or infinite, and the optimizer was told to refuse that."""


class CurvatureError(DashpotError, RuntimeError):
    """A Hessian-vector product cannot be taken here in the way that was asked for."""
