"""Time to take, check, write and read the state of a fit.

    python benchmarks/checkpoint.py [--task fashion-mnist] [--rounds 50]

The fit trains the task with AdamW and averaged weights (EMA) for one epoch on one thread. The check is that of the
schema, before a resume. A write includes the checksum and the flush to disk; the file is in the page cache when it is
read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import ClassVar

import torch

import dashpot as dp
from dashpot import tasks
from dashpot.training import EMA, Callback, Engine, Learner
from dashpot.training.state import checkpoint_file
from dashpot.training.state.fit_schema import check_state


def milliseconds(action: Callable[[], object], rounds: int) -> float:
    """Return the median wall time of `action` in milliseconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return median(times)


class Measure(Callback):
    """Callback that measures at the end of the epoch, when `Checkpoints` writes."""

    order: ClassVar[int] = 90

    def __init__(self, rounds: int) -> None:
        self.rounds, self.result = rounds, ""

    def cleanup_epoch(self, learner: Learner) -> None:
        """Measure, and keep the result as a line of text."""
        with tempfile.TemporaryDirectory() as folder:
            path, state = Path(folder, "fit.ckpt"), learner.state_dict()
            actions = {
                "take": learner.state_dict,
                "check": lambda: check_state(state),
                "write": lambda: checkpoint_file.write(path, state),
                "read": lambda: checkpoint_file.read(path),
            }
            times = {name: milliseconds(action, self.rounds) for name, action in actions.items()}
            size = path.stat().st_size / 1e3
        self.result = f"{size:.0f} kB; " + ", ".join(f"{name} {value:.1f} ms" for name, value in times.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="fashion-mnist")
    parser.add_argument("--rounds", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure = Measure(given.rounds)
    learner = Learner.of(tasks.get(given.task).build(0), dp.AdamW, lr=0.01, engine=Engine("cpu"))
    learner.fit(1, evaluate=False, callbacks=[EMA(0.99), measure])
    print(f"{given.task}: {measure.result}")


if __name__ == "__main__":
    main()
