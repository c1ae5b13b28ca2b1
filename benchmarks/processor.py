"""Processor name, vector instructions in use, and an environment without AVX-512."""

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
    """Return the flags of the first processor in /proc/cpuinfo; an empty result if the file does not exist."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(errors="replace").splitlines() if information.exists() else []
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def avx2_only() -> bool:
    """Return whether this process was started with the environment `narrowed`."""
    return os.environ.get(CAPABILITY) == "avx2"


def narrowed(cache: str) -> Mapping[str, str]:
    """Return the environment of a process without AVX-512 in torch and dashpot kernels, with its own kernel cache."""
    compiler = os.environ.get("CXX") or shlex.quote(find().path)
    return {**os.environ, CAPABILITY: "avx2", "CXX": f"{compiler} -mno-avx512f", "DASHPOT_CACHE": cache}


def instructions() -> str:
    """Return the widest vector instructions that both torch and dashpot kernels use."""
    if avx2_only():
        return "AVX2 only"
    known = flags()
    return "AVX-512" if "avx512f" in known else "AVX2" if "avx2" in known else "neither AVX2 nor AVX-512"


def stamp() -> str:
    """Return the line above a table: processor, instructions and date."""
    return f"{machine()['processor']}, {instructions()}, {datetime.date.today().isoformat()}."
