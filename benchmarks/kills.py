"""Kill `dashpot train` at random moments, including checkpoint writes, resume it, and compare the final state.

    python benchmarks/kills.py                 # 50 kills over five methods
    python benchmarks/kills.py --kills 6 --seed 3

The task is defined in this file: it trains a small convolutional network with dropout on noisy digits, with averaged
weights, gradient accumulation, a one-cycle schedule and a checkpoint every three steps. Processes are killed by SIGKILL
during start-up, at a random moment of training, or up to 20 ms after a partially written checkpoint appears. After its
kills, a run finishes normally. Its last checkpoint must then be bit-identical to that of an uninterrupted run in
weights, optimizer, averages, history and random states; all checkpoints must be readable, and no partial file may
remain.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.data import Batches, digits
from dashpot.tasks import Problem, Task, accuracy
from dashpot.training.callbacks.checkpoints import latest
from dashpot.training.state import checkpoint_file

TRAIN = [sys.executable, "-m", "dashpot_command", "train"]
OPTIONS = "--ema 0.99 --accumulate 2 --schedule 1cycle --checkpoint-every 3 --keep 3 --log csv --threads 1 --epochs 8"
METHODS = ("adamw", "autosgm", "esgd", "nadam", "sgd")
TIMES = {"seconds", "wall_s", "cpu_s", "time", "elapsed"}
"""Keys of numbers that differ between runs."""


# ---- the task -------------------------------------------------------------------------------------------------------


class NoisyShift(nn.Module):
    """Add noise and shift images by up to one pixel in training, with torch's global generator."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shift = torch.randint(-1, 2, (2,)).tolist()
        return torch.roll(x, shift, (-2, -1)) + 0.1 * torch.randn_like(x)


def network() -> nn.Sequential:
    """Return a network with 10 682 parameters."""
    first = [NoisyShift(), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(
        *first, nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10)
    )


def problem(seed: int) -> Problem:
    """Return a problem with twenty batches of shuffled digits."""
    images = digits.load()
    x, y = (torch.from_numpy(part) for part in (images.train_images, images.train_labels))
    x, y = x[:1000].float().div(8).sub(1).reshape(-1, 1, 8, 8), y[:1000].long()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
    shape = {"loss": nn.functional.cross_entropy, "metrics": {"accuracy": accuracy}}
    return Problem(
        model, Batches(x, y, 50, shuffle=True, seed=seed), evaluation=Batches(x[:200], y[:200], 200), **shape
    )


def build() -> Task:
    """Return the task of `dashpot train benchmarks/kills.py:build`."""
    return Task("kills", problem, epochs=8)


# ---- runs and kills -------------------------------------------------------------------------------------------------


def command(folder: Path, method: str) -> list[str]:
    """Return the command that starts or resumes the run in a folder."""
    if (folder / "run.toml").exists():
        return [*TRAIN, "--resume", str(folder)]
    shutil.rmtree(folder, ignore_errors=True)  # killed before the run started
    task = f"{Path(__file__).resolve()}:build"
    return [*TRAIN, task, "--optimizer", method, "--lr", "0.01", *OPTIONS.split(), "--out", str(folder)]


def start(folder: Path, method: str) -> subprocess.Popen[bytes]:
    """Start the command in a new process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        return subprocess.Popen(command(folder, method), stdout=log, stderr=log, env=environment)


def finish(folder: Path, method: str) -> float:
    """Run to the end and return the seconds taken."""
    began = time.perf_counter()
    process = start(folder, method)
    if process.wait() != 0:
        raise SystemExit(f"{folder.name} ended with {process.returncode}:\n{_log(folder)[-3000:]}")
    return time.perf_counter() - began


def partial_files(folder: Path) -> list[Path]:
    """Return temporary files that are being written, or that were left by a killed process."""
    return list(folder.rglob("*.part"))


def kill(folder: Path, method: str, how: str, draw: random.Random, length: float) -> str:
    """Start a run, kill it, and return what the kill interrupted; "end" if the run finished first."""
    before = {path.name for path in folder.rglob("*.ckpt")}
    process = start(folder, method)
    if how == "start":
        _pause(process, draw.uniform(0, 0.6 * length))
    else:
        _wait(process, lambda: {path.name for path in folder.rglob("*.ckpt")} - before)
        if how == "training":
            _pause(process, draw.uniform(0, 0.3 * length))
        else:
            _wait(process, lambda: partial_files(folder))
            _pause(process, draw.uniform(0, 0.02))
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    if code == 0:
        return "end"
    if code != -signal.SIGKILL:
        raise SystemExit(f"{folder.name} ended by itself with {code}:\n{_log(folder)[-3000:]}")
    return f"{how}, within a write" if partial_files(folder) else how


def _wait(process: subprocess.Popen[bytes], until: Any) -> None:
    while process.poll() is None and not until():
        time.sleep(0.0002)


def _pause(process: subprocess.Popen[bytes], seconds: float) -> None:
    end = time.perf_counter() + seconds
    while process.poll() is None and time.perf_counter() < end:
        time.sleep(0.0005)


def _log(folder: Path) -> str:
    return (folder.parent / f"{folder.name}.log").read_text(errors="replace")


# ---- comparison -----------------------------------------------------------------------------------------------------


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the last checkpoint without times."""
    newest = latest(folder / "checkpoints")
    assert newest is not None
    digest = hashlib.sha256()
    _feed(digest, checkpoint_file.read(newest))
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else repr(value).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            if key not in TIMES and key not in ("Record", "CSV", "Progress", "Checkpoints"):  # contain paths and times
                digest.update(str(key).encode())
                _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


def record(folder: Path) -> list[Any]:
    """Return the lines of the record that contain measured values, without times."""
    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    return [_timeless(line) for line in lines if line["kind"] not in ("header", "resumed")]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return value


def check(folder: Path, whole: Path) -> list[str]:
    """Return the differences between a killed run and an uninterrupted one."""
    found = []
    if fingerprint(folder) != fingerprint(whole):
        found.append("its last checkpoint differs")
    if record(folder) != record(whole):
        found.append("its record differs")
    found += [f"{path.name} was left" for path in partial_files(folder)]
    found += [f"{path.name} was left" for path in folder.rglob("*.damaged*")]
    for path in folder.rglob("*.ckpt"):
        checkpoint_file.read(path)
    return [f"{folder.name}: {fault}" for fault in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the run folders")
    parser.add_argument("--methods", default=",".join(METHODS))
    given = parser.parse_args()
    draw, methods = random.Random(given.seed), given.methods.split(",")
    hits: Counter[str] = Counter()
    faults: list[str] = []
    began = time.perf_counter()
    place = tempfile.mkdtemp(prefix="dashpot-kills-")
    try:
        for number, method in enumerate(methods):
            whole, folder = Path(place, f"{method}-whole"), Path(place, method)
            length = finish(whole, method)
            wanted = len(range(number, given.kills, len(methods)))
            while wanted:
                how = draw.choices(("start", "training", "write"), (1, 3, 2))[0]
                hit = kill(folder, method, how, draw, length)
                hits[hit] += 1
                wanted -= hit != "end"
                if hit == "end":  # restart: a finished run cannot be killed
                    faults += check(folder, whole)
                    shutil.rmtree(folder)
            finish(folder, method)
            faults += check(folder, whole)
            print(f"{method}: {sum(hits.values()) - hits['end']} kills so far, {len(faults)} faults", flush=True)
    finally:
        print(f"The runs are in {place}.") if given.keep else shutil.rmtree(place)
    ended = hits.pop("end", 0)
    for hit, count in sorted(hits.items()):
        print(f"{count:4d}  {hit}")
    print(f"{sum(hits.values())} kills of {len(methods) + ended} runs in {time.perf_counter() - began:.0f} s", end="")
    print(f", {len(faults)} faults.", *faults, sep="\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
