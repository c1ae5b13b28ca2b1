"""Peak memory of a run: of the process on a CPU, and of the allocator on a CUDA device."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PROC = Path("/proc/self")


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement of the peak memory, where the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (PROC / "clear_refs").write_text("5")  # resets the high-water mark of the resident set
    except OSError:
        return


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory since `reset_peak_memory` in bytes, or None if it is unknown.

    On a CUDA device, it is the memory of all tensors; else the resident memory of the process, on Linux only. If the
    system does not allow the reset, it is the peak since the start of the process.

    >>> reset_peak_memory(torch.device("cpu"))
    >>> peak_memory(torch.device("cpu")) != 0
    True
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB$", (PROC / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
