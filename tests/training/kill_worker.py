"""Processes that train and are killed at a chosen place; each goes on from what the one before has left.

    python kill_worker.py FOLDER "batch 4" "write 2 0.5" "named 1" "mark 1" "end"

Prints how each ended: the signal's number, negative, or 0.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot import tasks
from dashpot.training import Callback, Engine, Learner
from dashpot.training.callbacks.accumulate import Accumulate
from dashpot.training.callbacks.average import EMA
from dashpot.training.callbacks.checkpoints import Checkpoints, latest, read_newest
from dashpot.training.callbacks.schedule import one_cycle
from dashpot.training.state import checkpoint_file

EPOCHS, BATCHES = 3, 7


class Shaken(TensorDataset):
    """Digits that move by a pixel and carry noise; torch's, numpy's and Python's generators take part."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        x = torch.roll(x, (random.choice((-1, 0, 1)), int(np.random.randint(-1, 2))), (-2, -1))
        return x + 0.05 * torch.randn_like(x), y


def make() -> Learner:
    """A small convolutional network with dropout and batch norm on a shuffled loader."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    digits = tasks.get("digits").build(seed=0)
    x, y = digits.train.x[:420].reshape(-1, 1, 8, 8), digits.train.y[:420]
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
    model = nn.Sequential(*layers, nn.Linear(72, 10))
    train = DataLoader(Shaken(x, y), batch_size=60, shuffle=True)
    shape = {"loss": nn.functional.cross_entropy, "metrics": digits.metrics, "engine": Engine("cpu")}
    return Learner(
        model, train, DataLoader(Shaken(x[:50], y[:50]), batch_size=50), optimizer=dp.AdamW, lr=0.01, **shape
    )


def train(folder: Path, *more: Callback) -> Learner:
    """A fit in `folder`, from the newest checkpoint there, if there is one."""
    learner = make()
    saving = Checkpoints(folder, every_steps=1, keep=2, best=("loss", "min"))
    state = read_newest(folder) if latest(folder) else None
    learner.fit(EPOCHS, callbacks=[Accumulate(2), EMA(0.9), one_cycle(0.05), saving, *more], resume=state)
    return learner


def die(*_: Any) -> None:
    """End like a process that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


class DieAt(Callback):
    """Killed at the end of that many batches of training from now on."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.left = batches

    def cleanup_batch(self, learner):
        self.left -= learner.training
        if self.left == 0:
            die()


class Slow:
    """A file that is killed over once it holds so many bytes."""

    def __init__(self, stream: Any, size: int) -> None:
        self.stream, self.left = stream, size

    def write(self, content: Any) -> int:
        piece = bytes(content)[: self.left]
        self.stream.write(piece)
        self.stream.flush()
        self.left -= len(piece)
        if self.left <= 0:
            die()
        return len(content)

    def flush(self) -> None:
        self.stream.flush()


def live(folder: Path, how: str) -> None:
    """Train and die as told."""
    place, *numbers = how.split()
    count = itertools.count(1)
    more: list[Callback] = []
    if place == "batch":
        more.append(DieAt(int(numbers[0])))
    elif place == "write":
        real, nth, bytes_ = checkpoint_file.write_atomically, int(numbers[0]), int(numbers[1])

        def slow(path, write):
            real(path, (lambda stream: write(Slow(stream, bytes_))) if next(count) == nth else write)

        checkpoint_file.write_atomically = slow
    elif place == "named":
        replace = Path.replace

        def named(path, target):
            replace(path, target)
            if Path(target).suffix == ".ckpt" and next(count) == int(numbers[0]):
                die()

        Path.replace = named
    elif place == "mark":
        Checkpoints._mark = die
    train(folder, *more)


def main(folder: Path, lives: list[str]) -> None:
    torch.set_num_threads(1)
    make().fit(1)  # loads what is loaded late, once for all
    for how in lives:
        child = os.fork()
        if child == 0:
            live(folder, how)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
