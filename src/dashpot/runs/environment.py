"""Environment of a run: software versions and machine, as plain data for the record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from dashpot.constraints import check
from dashpot.runs.choices import THREADS


def versions() -> dict[str, str]:
    """Return the versions of all software that can affect results.

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
    """Return the processor, its cores, the torch threads and the operating system, without user and host names.

    >>> sorted(machine())
    ['cores', 'processor', 'system', 'threads']
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Set the number of torch threads inside the block; None leaves the number unchanged.

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
    """Return the model name of the processor if it is available, else the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
