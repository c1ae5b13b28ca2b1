"""Subprocesses of tests: limits, environment of a distributed worker, cleanup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIMIT = 3600.0
"""Seconds for all checks of a worker, or for any other subprocess of a test: only hangs reach it, whatever the load."""
PEER_LIMIT = 600.0
"""Seconds a rank waits for another one in a collective operation."""
EXIT_GRACE = 60.0
"""Seconds for the other ranks to end after one has failed."""


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process; at the end of the block, kill it if it is still running, reap it and close its pipes."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def environment(script: Path, rank: int = 0, world: int = 1) -> dict[str, str]:
    """Return the environment of a worker: the test folders, and the variables that torchrun sets."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(script.parent), str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    launcher = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    launcher |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # workers rendezvous through a file
    return {**os.environ, **launcher, "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}


def assert_passed(outcomes: list[dict[str, Any]], count: int) -> None:
    """Check that every rank has run `count` checks, and that all of them passed."""
    for rank, found in enumerate(outcomes):
        failed = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not failed, (rank, failed)
        assert len(found) == count


def run_processes(script: Path, folder: Path, *arguments: str, world: int = 2) -> list[dict[str, Any]]:
    """Run `script RANK WORLD FOLDER ARGUMENTS` for each rank and return the contents of FOLDER/outcomes-RANK.json.

    The output of the ranks goes to files, because a rank would block on a full pipe that is not being read.
    """
    processes: list[subprocess.Popen[bytes]] = []
    outputs = [folder / f"output-{rank}.txt" for rank in range(world)]
    try:
        for rank, output in enumerate(outputs):
            command = [sys.executable, str(script), str(rank), str(world), str(folder), *arguments]
            with output.open("w") as stream:
                env = environment(script, rank, world)
                processes.append(subprocess.Popen(command, env=env, stdout=stream, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + LIMIT
        while None in (codes := [process.poll() for process in processes]) and time.monotonic() < deadline:
            if any(codes):
                deadline = min(deadline, time.monotonic() + EXIT_GRACE)
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    results = [folder / f"outcomes-{rank}.json" for rank in range(world)]
    assert all(result.exists() for result in results), "\n".join(output.read_text() for output in outputs)
    return [json.loads(result.read_text()) for result in results]
