"""Allowed values of settings, which the command line checks before it loads torch."""

from __future__ import annotations

import math
import os

from dashpot.constraints import Interval, OneOf, Optional

COUNT = Interval(1, math.inf, "left", integer=True)
PRECISIONS = OneOf(("fp32", "bf16", "fp16"))
STRATEGIES = OneOf(("auto", "ddp", "fsdp"))
THREADS = Optional(Interval(1, max(64, 4 * (os.cpu_count() or 1)), "both", integer=True))
"""Allowed numbers of threads. The maximum is far above useful numbers; OpenMP crashes if the number is huge."""
