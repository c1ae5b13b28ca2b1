"""Setup of processes that train in tests: fewer repeated searches."""

from __future__ import annotations

import functools
import importlib.metadata
import sys

REGISTRIES = ("lightning_fabric.utilities.registry", "lightning.fabric.utilities.registry")


def cache_entry_points() -> None:
    """Cache the entry points of installed packages, which Lightning reads again for every `Engine`."""
    cached = functools.cache(importlib.metadata.entry_points)
    importlib.metadata.entry_points = cached
    for name in REGISTRIES:
        if name in sys.modules:
            vars(sys.modules[name])["entry_points"] = cached
