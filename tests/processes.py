"""Several processes of one worker script on this machine, and what became of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT = 240.0  # seconds for all checks; a process that waits for another gives up after 60


def environment(script: Path, rank: int = 0, world: int = 1) -> dict[str, str]:
    """What a worker finds: the folders of the tests, and the variables that torchrun sets."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(script.parent), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Nobody outside this machine is to be reached, and several processes of one thread each share it.
    inside = "lo0" if sys.platform == "darwin" else "lo"
    launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    launcher |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # workers meet in a file
    return {**os.environ, **launcher, "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": inside, "OMP_NUM_THREADS": "1"}


def run_processes(
    script: Path, folder: Path, *arguments: str, world: int = 2, limit: float = LIMIT
) -> list[dict[str, Any]]:
    """Run `script RANK WORLD FOLDER ARGUMENTS` for each rank; what each wrote into FOLDER/outcomes-RANK.json."""
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
            process.wait()
    files = [folder / f"outcomes-{rank}.json" for rank in range(world)]
    assert all(file.exists() for file in files), "\n".join(printed)
    return [json.loads(file.read_text()) for file in files]
