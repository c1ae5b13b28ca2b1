"""Temporary memory of a step: the peak resident size during the step minus the resident size before the step.

    python benchmarks/memory.py "dashpot AdamW"     # MiB, as JSON

A fresh process takes three steps, returns freed memory to the system (malloc_trim; otherwise memory freed by earlier
steps would hide new allocations), resets the peak (writing 5 to /proc/self/clear_refs sets VmHWM to VmRSS), takes one
more step and reads VmHWM.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from cases import LARGE, SHAPES, Make, adamw, autosgm, foreach, fused, kahan, loop, parameters

ONE_LARGE_TENSOR = 1024 * 1024 * 4 / 2**20  # MiB

SUBJECTS: dict[str, tuple[Make, torch.dtype]] = {
    "dashpot AdamW": (adamw, torch.float32),
    "dashpot AdamW with max_norm": (partial(adamw, max_norm=1.0), torch.float32),
    "dashpot AdamW, all bf16, Kahan": (kahan, torch.bfloat16),
    "dashpot AutoSGM, numerator 2": (partial(autosgm, numerator=2), torch.float32),
    "torch AdamW fused": (fused, torch.float32),
    "torch AdamW foreach": (foreach, torch.float32),
    "torch AdamW loop": (loop, torch.float32),
}
"""Subjects; only the dashpot optimizers, which come first, have a target."""


def measured() -> bool:
    """Return whether this system supports the measurement."""
    return Path("/proc/self/clear_refs").exists() and hasattr(ctypes.CDLL(None), "malloc_trim")


def extra(name: str) -> float:
    """Return the temporary memory of a step in MiB, measured in a new process."""
    run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip()}")
    return float(json.loads(run.stdout))


def extra_here(make: Make, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> float:
    """Return the temporary memory of a step in MiB, measured in this process."""
    (params,) = parameters(shapes, dtype, 1)
    stepper = make(params)
    for _ in range(3):
        stepper.step()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    stepper.step()
    return max(resident("VmHWM") - before, 0.0)


def resident(which: str) -> float:
    """Return a size from /proc/self/status in MiB."""
    found = re.search(rf"^{which}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, which
    return int(found[1]) / 1024


if __name__ == "__main__":
    make, dtype = SUBJECTS[sys.argv[1]]
    print(json.dumps(extra_here(make, SHAPES[LARGE], dtype)))
