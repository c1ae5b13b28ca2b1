"""Durations as text."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Return a duration in seconds, from a number of seconds or from hours, minutes and seconds with units.

    Raises:
        ValueError: If `text` is not a duration.

    >>> [parse_duration(text) for text in ("90", "90s", "30m", "2h", "1h30m", "1.5h")]
    [90.0, 90.0, 1800.0, 7200.0, 5400.0, 5400.0]
    >>> parse_duration("1 hour")
    Traceback (most recent call last):
    ValueError: must be a number of seconds or a duration such as 90s, 30m, 2h or 1h30m, got '1 hour'.
    """
    found = _PARTS.fullmatch(text)
    if found is not None and text:
        return sum(float(number) * _SECONDS[unit] for unit, number in found.groupdict().items() if number)
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"must be a number of seconds or a duration such as 90s, 30m, 2h or 1h30m, got {text!r}."
        ) from None
