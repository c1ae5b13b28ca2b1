"""Length of a source of batches."""

from __future__ import annotations

from typing import Any


def length(source: Any) -> int | None:
    """Return the number of batches per pass, or None if the source does not define it.

    >>> length([1, 2]), length(iter([1, 2]))
    (2, None)
    """
    if not hasattr(source, "__len__"):
        return None
    try:
        return len(source)
    except TypeError:  # DataLoader always defines __len__, but the dataset may not
        return None
