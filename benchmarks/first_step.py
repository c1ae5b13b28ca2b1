"""Time of the first step in fresh processes, with an empty and with a filled kernel cache.

    python benchmarks/first_step.py "AdamW"     # seconds, as JSON

Before timing starts, torch is loaded and parameters and gradients are allocated. `import` is the time of
`import dashpot`. The time of the first step includes state initialization, tracing, compiling or loading a kernel, and
the step itself, on one thread. With a filled kernel cache, CPU time is reported. All files are in the page cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

COLD, WARM = (1.2, 0.5), (0.1, 0.05)
"""(required, desired) seconds for AdamW: elapsed time, and CPU time."""
ADAMW, SMALL, AUTOSGM = "AdamW", "AdamW, 30 small tensors", "AutoSGM, numerator 2"
TORCH = "torch AdamW fused"
SUBJECTS = (ADAMW, SMALL, AUTOSGM, TORCH)
COLD_RUNS, WARM_RUNS = 3, 3


class First(NamedTuple):
    """Median seconds of the import, of a step with an empty cache, and of CPU time of a step with a filled cache."""

    imported: float
    cold: float | None
    warm: float


def first(name: str, *, quick: bool = False) -> First:
    """Measure the first step of a subject in separate processes; each cold run has its own cache folder."""
    with tempfile.TemporaryDirectory(prefix="dashpot-bench-") as folder:
        caches = [Path(folder, str(i)) for i in range(1 if quick else COLD_RUNS)]
        for cache in caches:
            cache.mkdir(mode=0o700)
        cold = None if name == TORCH else median(_child(name, cache)["step"] for cache in caches)
        warm = [_child(name, caches[0]) for _ in range(1 if quick else WARM_RUNS)]
    return First(median(run["import"] for run in warm), cold, median(run["cpu"] for run in warm))


def _child(name: str, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "DASHPOT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}  # idle threads use CPU time
    run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def first_here(name: str, shapes: Sequence[tuple[int, ...]] | None = None) -> dict[str, float]:
    """Return the seconds of the import and of the first step in this process."""
    start = time.perf_counter()
    import dashpot as dp

    imported = time.perf_counter() - start
    from cases import LARGE, SHAPES, TRANSFORMER, parameters

    (params,) = parameters(shapes or SHAPES[TRANSFORMER if name == SMALL else LARGE], torch.float32, 1)
    makers = {AUTOSGM: partial(dp.AutoSGM, numerator=2), TORCH: partial(torch.optim.AdamW, fused=True)}
    optimizer = makers.get(name, dp.AdamW)(params)
    start, used = time.perf_counter(), time.process_time()
    optimizer.step()
    return {"import": imported, "step": time.perf_counter() - start, "cpu": time.process_time() - used}


if __name__ == "__main__":
    print(json.dumps(first_here(sys.argv[1])))
