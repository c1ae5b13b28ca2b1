"""What a run ran with: versions and machine, as plain data for the record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from dashpot.constraints import Interval, Optional, check

__all__ = ["machine", "torch_threads", "versions"]


def versions() -> dict[str, str]:
    """Versions of everything that can change a number.

    >>> sorted(versions())
    ['dashpot', 'numpy', 'python', 'torch']
    """
    return {
        "dashpot": _dashpot(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def machine() -> dict[str, str | int]:
    """The processor, its cores, the threads torch uses and the operating system; no name of a person or host.

    >>> sorted(machine())
    ['cores', 'processor', 'system', 'threads']
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


THREADS = Optional(Interval(1, max(64, 4 * (os.cpu_count() or 1)), "both", integer=True))
"""Far above what helps; torch's thread library crashes on absurd numbers."""


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch compute with `count` threads within the block; None leaves its setting.

    >>> with torch_threads(1):
    ...     torch.get_num_threads()
    1
    """
    check("torch", "threads", count, THREADS)
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _dashpot() -> str:
    try:
        return metadata.version("dashpot")
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """The processor's marketing name where the system tells it, else its architecture."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
