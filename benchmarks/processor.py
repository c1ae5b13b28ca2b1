"""The processor that figures belong to, the vector instructions in use, and how to do without AVX-512."""

from __future__ import annotations

import datetime
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from dashpot.engine.native.compiler import find
from dashpot.runs.environment import machine

CAPABILITY = "ATEN_CPU_CAPABILITY"


def flags() -> frozenset[str]:
    """What /proc/cpuinfo says that the processor can do; nothing where there is no such file."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(errors="replace").splitlines() if information.exists() else []
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def avx2_only() -> bool:
    """Whether this process was started with `narrowed`."""
    return os.environ.get(CAPABILITY) == "avx2"


def narrowed(cache: str) -> Mapping[str, str]:
    """The environment of a process in which neither torch nor our kernels use AVX-512, with a cache of its own."""
    compiler = os.environ.get("CXX") or shlex.quote(find().path)
    return {**os.environ, CAPABILITY: "avx2", "CXX": f"{compiler} -mno-avx512f", "DASHPOT_CACHE": cache}


def instructions() -> str:
    """The widest vector instructions that both sides use."""
    if avx2_only():
        return "AVX2 only"
    known = flags()
    return "AVX-512" if "avx512f" in known else "AVX2" if "avx2" in known else "neither AVX2 nor AVX-512"


def stamp() -> str:
    """The line above a table."""
    return f"{machine()['processor']}, {instructions()}, {datetime.date.today().isoformat()}."
