"""Run one worker script in several processes and collect the outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT = 1800.0
"""Seconds for all checks of a worker, or for any other subprocess of a test: only hangs reach it, whatever the load."""
PEER_LIMIT = 600.0
"""Seconds a rank waits for another one in a collective operation."""


def environment(script: Path, rank: int = 0, world: int = 1) -> dict[str, str]:
    """Return the environment of a worker: the test folders, and the variables that torchrun sets."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(script.parent), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    launcher |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # workers rendezvous through a file
    return {**os.environ, **launcher, "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}


def run_processes(
    script: Path, folder: Path, *arguments: str, world: int = 2, limit: float = LIMIT
) -> list[dict[str, Any]]:
    """Run `script RANK WORLD FOLDER ARGUMENTS` for each rank and return the contents of FOLDER/outcomes-RANK.json."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(world), str(folder), *arguments],
            env=environment(script, rank, world),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world)
    ]
    try:
        printed = [process.communicate(timeout=limit)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()  # closes the pipe, which would otherwise warn when it is collected
    files = [folder / f"outcomes-{rank}.json" for rank in range(world)]
    assert all(file.exists() for file in files), "\n".join(printed)
    return [json.loads(file.read_text()) for file in files]
