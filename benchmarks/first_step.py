"""How long the first step takes: fresh processes with an empty, then a filled cache of kernels.

    python benchmarks/first_step.py "AdamW"     # seconds, as JSON

torch is loaded before the clock starts, and the parameters and their gradients are there. `import` is `import dashpot`
after it; the first step is all of the first `optimizer.step()`: making the state, tracing, compiling or loading, and
the step itself, on one thread. With a filled cache its CPU time counts. The files are in the system's page cache.
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
"""(must, aim) in seconds for AdamW: elapsed, and of CPU time."""
ADAMW, SMALL, AUTOSGM = "AdamW", "AdamW, 30 small tensors", "AutoSGM, numerator 2"
TORCH = "torch AdamW fused"
SUBJECTS = (ADAMW, SMALL, AUTOSGM, TORCH)
COLD_RUNS, WARM_RUNS = 3, 3


class First(NamedTuple):
    """Seconds, as medians: of the import, of the step with an empty cache, of CPU time with a filled one."""

    imported: float
    cold: float | None
    warm: float


def first(name: str, *, quick: bool = False) -> First:
    """A subject's first step in processes of their own; those with an empty cache have a folder each."""
    with tempfile.TemporaryDirectory(prefix="dashpot-bench-") as folder:
        caches = [Path(folder, str(i)) for i in range(1 if quick else COLD_RUNS)]
        for cache in caches:
            cache.mkdir(mode=0o700)
        cold = None if name == TORCH else median(_child(name, cache)["step"] for cache in caches)
        warm = [_child(name, caches[0]) for _ in range(1 if quick else WARM_RUNS)]
    return First(median(run["import"] for run in warm), cold, median(run["cpu"] for run in warm))


def _child(name: str, cache: Path) -> dict[str, float]:
    environment = {**os.environ, "DASHPOT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}  # idle threads use CPU time too
    run = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False, env=environment)
    if run.returncode:
        raise RuntimeError(f"{name}: {run.stderr.strip()}")
    return json.loads(run.stdout)


def first_here(name: str, shapes: Sequence[tuple[int, ...]] | None = None) -> dict[str, float]:
    """Seconds of the import and of the first step in this process."""
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
