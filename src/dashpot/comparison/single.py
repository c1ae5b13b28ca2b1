"""One run, told as a table while it goes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dashpot.comparison.entries import Entry
from dashpot.comparison.environment import THREADS, torch_threads
from dashpot.comparison.interrupt import Interrupted, interruptible
from dashpot.comparison.pace import duration
from dashpot.comparison.table import score_text
from dashpot.constraints import Interval, check
from dashpot.tasks import Task
from dashpot.training import Epoch, train

__all__ = ["train_one"]


def train_one(
    task: Task,
    entry: Entry,
    epochs: int,
    seed: int = 0,
    *,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> list[Epoch]:
    """Train one entry on `task` and say a line an epoch; nothing is written.

    Args:
        task: what is trained.
        entry: method, learning rate and schedule.
        epochs: at least 1.
        seed: of the initial weights, the batch order and the training noise.
        threads: threads torch computes with; None leaves torch's setting.
        say: told each line.

    Raises:
        ArgumentError: an argument is out of range.
        Interrupted: Ctrl-C.

    >>> from dashpot import tasks
    >>> from dashpot.comparison import entry
    >>> lines = []
    >>> epochs = train_one(tasks.get("digits"), entry("adam", "digits"), epochs=1, say=lines.append)
    >>> print(lines[1])
    epoch  train           eval                    lr      time
    """
    check("train", "epochs", epochs, Interval(1, math.inf, "left", integer=True))
    check("train", "threads", threads, THREADS)
    problem = task.build(seed)
    optimizer = entry.optimizer(problem.model.parameters(), epochs * len(problem.train))
    say(entry.call(epochs * len(problem.train)))
    say(f"{'epoch':<6} {'train':<15} {'eval':<15} {'lr':>10} {'time':>9}")

    def on_epoch(epoch: Epoch) -> None:
        if epoch.diverged is not None:
            say(f"{epoch.number:<6} diverged at step {epoch.diverged.step + 1}: the loss is {epoch.diverged.label}")
            return
        evaluation = score_text(epoch.evaluation) if epoch.evaluation else "-"
        numbers = f"{epoch.lr[-1]:>10.3g} {duration(epoch.wall_s):>9}"
        say(f"{epoch.number:<6} {score_text(epoch.train):<15} {evaluation:<15} {numbers}")

    with (
        torch_threads(threads),
        interruptible() as check_interrupt,
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
    ):
        torch.manual_seed(seed)
        try:
            return train(problem, optimizer, epochs, on_step=lambda _: check_interrupt(), on_epoch=on_epoch)
        except Interrupted:
            raise Interrupted("Stopped; a single run keeps nothing.") from None
