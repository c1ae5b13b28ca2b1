"""Processes that train and are killed at a chosen point; each one resumes from the files of the previous one.

    python kill_worker.py FOLDER "batch 4" "write 2 4000" "rename 1" "best 1" "end"

The command prints the exit code of each process, which is 0 or a negative signal number.
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
from process_setup import cache_entry_points
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

EPOCHS = 3


class Augmented(TensorDataset):
    """Digits with random shifts and noise, drawn from the generators of torch, numpy and Python."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        x = torch.roll(x, (random.choice((-1, 0, 1)), int(np.random.randint(-1, 2))), (-2, -1))
        return x + 0.05 * torch.randn_like(x), y


def make() -> Learner:
    """Return a learner with a small convolutional network, dropout, batch norm and a shuffled loader."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    digits = tasks.get("digits").build(seed=0)
    x, y = digits.train.x[:420].reshape(-1, 1, 8, 8), digits.train.y[:420]
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2)]
    return Learner(
        nn.Sequential(*layers, nn.Linear(72, 10)),
        DataLoader(Augmented(x, y), batch_size=60, shuffle=True),
        DataLoader(Augmented(x[:50], y[:50]), batch_size=50),
        loss=nn.functional.cross_entropy,
        optimizer=dp.AdamW,
        lr=0.01,
        metrics=digits.metrics,
        engine=Engine("cpu"),
    )


def train(folder: Path, *more: Callback) -> Learner:
    """Fit in `folder`, starting from its latest checkpoint if there is one."""
    learner = make()
    saving = Checkpoints(folder, every_steps=1, keep=2, best=("loss", "min"))
    state = read_newest(folder) if latest(folder) else None
    learner.fit(EPOCHS, callbacks=[Accumulate(2), EMA(0.9), one_cycle(0.05), saving, *more], resume=state)
    return learner


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DieAfterBatches(Callback):
    """Kill the process after a number of training batches of this fit."""

    order = 1000

    def __init__(self, batches: int) -> None:
        self.remaining = batches

    def cleanup_batch(self, learner):
        self.remaining -= learner.training
        if self.remaining == 0:
            die()


class PartialFile:
    """Stream that kills the process after a number of written bytes."""

    def __init__(self, stream: Any, size: int) -> None:
        self.stream, self.remaining = stream, size

    def write(self, content: Any) -> int:
        piece = bytes(content)[: self.remaining]
        self.stream.write(piece)
        self.stream.flush()
        self.remaining -= len(piece)
        if self.remaining <= 0:
            die()
        return len(content)

    def flush(self) -> None:
        self.stream.flush()


def train_and_die(folder: Path, event: str) -> None:
    """Train, and kill the process at "batch N", "write N BYTES", "rename N" or "best 1", or not at all ("end")."""
    kind, *numbers = event.split()
    count = itertools.count(1)
    more: list[Callback] = []
    if kind == "batch":
        more.append(DieAfterBatches(int(numbers[0])))
    elif kind == "write":
        write_atomically, nth, size = checkpoint_file.write_atomically, int(numbers[0]), int(numbers[1])

        def write_partially(path, write):
            write_atomically(path, (lambda stream: write(PartialFile(stream, size))) if next(count) == nth else write)

        checkpoint_file.write_atomically = write_partially
    elif kind == "rename":
        replace = Path.replace

        def replace_and_die(path, target):
            replace(path, target)
            if Path(target).suffix == ".ckpt" and next(count) == int(numbers[0]):
                die()

        Path.replace = replace_and_die
    elif kind == "best":
        Checkpoints._write_best = die
    train(folder, *more)


def main(folder: Path, events: list[str]) -> None:
    torch.set_num_threads(1)
    make().fit(1)  # lazy imports, once for all processes
    for event in events:
        child = os.fork()
        if child == 0:
            train_and_die(folder, event)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    cache_entry_points()
    main(Path(sys.argv[1]), sys.argv[2:])
