"""Per-user cache directory for data sets and compiled kernels."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return the per-user cache directory.

    On Linux, the directory is `$XDG_CACHE_HOME/dashpot`, or `~/.cache/dashpot` if this variable is not set. The path
    equals `pooch.os_cache("dashpot")` on all systems; this function is not called because the base install does not
    include pooch.
    """
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dashpot"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dashpot" / "dashpot" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or home / ".cache") / "dashpot"
