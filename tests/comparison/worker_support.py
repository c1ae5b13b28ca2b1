"""Studies in processes of the command line: a task with slow steps, and helpers that find and kill processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from processes import LIMIT, running
from study_support import numbers

from dashpot.comparison import StudyFolder
from dashpot.comparison.sessions import read_sessions

TASK = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from dashpot.data import Batches
from dashpot.tasks import Problem, Task

def loss(output, y):
    if output.requires_grad:
        time.sleep(PAUSE)
    return nn.functional.mse_loss(output, y)

def build():
    def problem(seed):
        if seed == 1 and Path("deadly").exists() and torch.utils.data.get_worker_info() is None:
            if "worker" in open("/proc/self/cmdline").read().split(chr(0)):
                with open("deaths", "a") as stream:
                    stream.write("x")
                os.kill(os.getpid(), signal.SIGKILL)
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(24, 2, generator=draw)
        y = x.sum(1, keepdim=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.1), nn.Linear(4, 1))
        return Problem(model, Batches(x, y, 4, shuffle=True, seed=seed), loss, Batches(x, y, 24))
    return Task("slow steps", problem, epochs=4)
"""

WORDS = ("compare", "slow.py:build", "--methods", "sgd,adam", "--seeds", "3", "--threads", "1", "--out", "out")
"""A study of 6 runs of 24 steps."""
KEYS = [f"run/{method}/{seed}" for seed in range(3) for method in ("sgd", "adam")]


def write_task(folder: Path, pause: float = 0.05) -> Path:
    """Write the task with a pause of some seconds in each step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.py").write_text(TASK.replace("PAUSE", repr(pause)))
    return folder


def start(folder: Path, *words: str, extra: Sequence[str] = ()) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start the command in a folder."""
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "dashpot", *(words or WORDS), *extra]
    pipe = subprocess.PIPE
    return running(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, start_new_session=True)


def complete(folder: Path, *words: str, extra: Sequence[str] = ()) -> str:
    """Run the command to its end, and return its output."""
    with start(folder, *words, extra=extra) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, ""), out + err
    return out


def children(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of the workers of a command."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a condition holds; fail if the process ends before."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def evaluated(folder: Path) -> int:
    """Return the number of recorded intervals of all runs."""
    return sum(path.read_text().count('"kind":"epoch"') for path in (folder / "out" / "runs").glob("*.jsonl"))


def results(folder: Path) -> list:
    """Return all recorded values except times."""
    return numbers(StudyFolder(folder / "out").runs())


def executed(*folders: Path) -> int:
    """Return the number of items that the workers of finished sessions have executed."""
    return sum(session["items"] for folder in folders for session in read_sessions(folder / "out"))
