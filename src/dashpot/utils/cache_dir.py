"""Where a user's files that can be made again are kept: data sets and compiled kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """The per-user cache: `~/.cache/dashpot`, or where the system or `XDG_CACHE_HOME` puts caches.

    The same folder as `pooch.os_cache("dashpot")`, worked out here because the base install has no pooch.
    """
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dashpot"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dashpot" / "dashpot" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or home / ".cache") / "dashpot"
