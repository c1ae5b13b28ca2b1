"""Available memory of a device, and resident memory of this process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
GROUP = Path("/sys/fs/cgroup")


def available_memory(device: torch.device) -> int | None:
    """Return the memory in bytes that new tensors on a device can use, or None if it is unknown.

    On the CPU, this is the memory that Linux can provide without swapping, limited by that of the control group.

    >>> available_memory(torch.device("cpu")) != 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB$", MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    known = [] if found is None else [int(found[1]) * 1024]
    return min([*known, *_group_memory()], default=None)


def _group_memory() -> list[int]:
    """Return the memory that the control group of this process has left, if it has a limit."""
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [max(0, int(limit) - int(used))] if limit.isdigit() and used.isdigit() else []


def resident_memory() -> int:
    """Return the resident memory of this process in bytes; 0 if it is unknown.

    >>> resident_memory() >= 0
    True
    """
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
