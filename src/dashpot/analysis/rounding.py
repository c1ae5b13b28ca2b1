"""Removal of rounding errors from derived settings."""

from __future__ import annotations


def tidy(value: float) -> float:
    """Round to 12 significant digits, so that 1 - 16 (1 - 0.999) is 0.984.

    >>> tidy(1 - 16 * (1 - 0.999))
    0.984
    """
    return float(f"{value:.12g}")
