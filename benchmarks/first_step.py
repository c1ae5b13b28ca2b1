"""How long the first step takes: fresh processes with an empty, then a filled cache of kernels.

    python benchmarks/first_step.py "AdamW"     # seconds, as JSON

torch is loaded before the clock starts, and the parameters and their gradients are there. `import` is `import dashpot`
after it; the first step is all of the first `optimizer.step()`: making the state, tracing, compiling or loading, and
the step itself. The files are in the system's page cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

COLD, WARM = (20.0, 12.0), (3.0, 0.2)
"""(must, aim) in seconds."""
SUBJECTS = ("AdamW", "AutoSGM, numerator 2")
WARM_RUNS = 3


class First(NamedTuple):
    """Seconds, the warm ones as medians."""

    imported: float
    cold: float
    warm: float


def first(name: str, threads: int) -> First:
    """A subject's first step in processes of their own, with a cache folder of their own."""
    with tempfile.TemporaryDirectory(prefix="dashpot-bench-") as folder:
        Path(folder).chmod(0o700)
        cold = _child(name, threads, folder)
        warm = [_child(name, threads, folder) for _ in range(WARM_RUNS)]
    return First(median(run["import"] for run in warm), cold["step"], median(run["step"] for run in warm))


def _child(name: str, threads: int, folder: str) -> dict[str, float]:
    environment = {**os.environ, "DASHPOT_CACHE": folder, "OMP_NUM_THREADS": str(threads)}
    run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def first_here(name: str, shapes: Sequence[tuple[int, ...]] | None = None) -> dict[str, float]:
    """Seconds of the import and of the first step in this process."""
    start = time.perf_counter()
    import dashpot as dp

    imported = time.perf_counter() - start
    from cases import LARGE, SHAPES, parameters

    (params,) = parameters(SHAPES[LARGE] if shapes is None else shapes, torch.float32, 1)
    optimizer = {"AdamW": dp.AdamW, "AutoSGM, numerator 2": lambda p: dp.AutoSGM(p, numerator=2)}[name](params)
    start = time.perf_counter()
    optimizer.step()
    return {"import": imported, "step": time.perf_counter() - start}


if __name__ == "__main__":
    print(json.dumps(first_here(sys.argv[1])))
