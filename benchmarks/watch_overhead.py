"""Overhead of `dashpot.watch`: a training step with all measurements relative to the same step without.

    python benchmarks/watch_overhead.py --data-dir FOLDER [--text FOLDER] [--blocks N] [--quick]

Two copies of a network train on the same batches in one process, in turns of 10 steps, one of them watched with the
default measurements: norms every 10 steps, dynamics and noise scale every 100, warnings at every step. Both sides must
end with equal weights. A block is 100 steps, and its ratio is that of the CPU times of both sides; the result is the
median over the blocks. The first block is a warm-up. Curvature is measured less often than once in 2000 steps within
the budget, so its cost is measured separately: the median CPU time of a measurement, divided by that of 2000 steps.

FOLDER contains the files of Fashion-MNIST (network and batch size of the task), `--text` input.txt for the character
transformer of `benchmarks/char_transformer.py`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import time
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from typing import Any, NamedTuple

import char_transformer
import torch
from processor import stamp
from timing import threads
from torch import Tensor, nn

import dashpot as dp
from dashpot import tasks
from dashpot.tasks import Problem
from dashpot.watching import Watcher, watch

BLOCK, TURN = 100, 10
CURVATURE_STEPS = 2000
MUST, AIM = 0.03, 0.01
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "dashpot.AdamW": lambda params: dp.AdamW(params, lr=1e-3),
    "torch AdamW": lambda params: torch.optim.AdamW(params, lr=1e-3),
}


class Row(NamedTuple):
    """Overhead relative to the step without measurements, and CPU seconds of a step."""

    task: str
    optimizer: str
    overhead: float
    low: float
    high: float
    curvature: float
    step: float
    shares: dict[str, float]
    rows: dict[str, int]


class Side:
    """A model with its optimizer, trained on given batches."""

    def __init__(self, problem: Problem, optimizer: Callable[[Any], torch.optim.Optimizer], watched: bool) -> None:
        self.model, self.loss = copy.deepcopy(problem.model), problem.loss
        self.opt = optimizer(self.model.parameters())
        self.watcher: Watcher | None = watch(self.opt, self.model) if watched else None
        self.model.train()

    def train(self, batches: list[tuple[Tensor, Tensor]]) -> float:
        """Take a step on each batch; return the CPU seconds."""
        start = time.process_time()
        for x, y in batches:
            loss = self.loss(self.model(x), y)
            loss.backward()
            if self.watcher is not None:
                self._observe(self.watcher, loss, x, y)
            self.opt.step()
            self.opt.zero_grad()
        return time.process_time() - start

    def _observe(self, watcher: Watcher, loss: Tensor, x: Tensor, y: Tensor) -> None:
        def part(first: int, last: int) -> Tensor:
            return self.loss(self.model(x[first:last]), y[first:last])

        watcher.observe(loss, closure=lambda: part(0, len(x)), sliced=part, size=len(x))


def batches_of(problem: Problem) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield turns of batches, without end."""
    train: Any = problem.train
    endless = itertools.chain.from_iterable(train.epoch(epoch) for epoch in itertools.count())
    while True:
        yield list(itertools.islice(endless, TURN))


def measured(task: str, problem: Problem, name: str, blocks: int) -> Row:
    plain, watched = (Side(problem, OPTIMIZERS[name], watched) for watched in (False, True))
    watcher = watched.watcher
    assert watcher is not None
    curvature = next(probe for probe in watcher.probes if probe.kind == "curvature")
    watcher.probes.remove(curvature)
    turns = batches_of(problem)
    table = [block(plain, watched, turns) for _ in range(blocks + 1)][1:]
    check_same(plain.model, watched.model)
    low, middle, high = quantiles([ours / bare - 1 for bare, ours in table], n=4)
    step = median(bare for bare, _ in table) / BLOCK
    status, counts = watcher.status(), {kind: len(rows) for kind, rows in watcher.record.series.items()}
    cost = curvature_cost(plain, watched, curvature, turns)
    share = cost / (CURVATURE_STEPS * step)
    return Row(task, name, middle, low, high, share, step, status["by_kind"], counts)


def block(plain: Side, watched: Side, turns: Iterator[list[tuple[Tensor, Tensor]]]) -> tuple[float, float]:
    """Return the CPU seconds of a block without and with measurements."""
    seconds = [0.0, 0.0]
    for number in range(BLOCK // TURN):
        batches = next(turns)
        sides = list(enumerate((plain, watched)))
        for index, side in sides if number % 2 else reversed(sides):
            seconds[index] += side.train(batches)
    return seconds[0], seconds[1]


def curvature_cost(
    plain: Side, watched: Side, probe: Any, turns: Iterator[list[tuple[Tensor, Tensor]]], count: int = 3
) -> float:
    """Return the median CPU seconds of a measurement of curvature, on the watched side alone."""
    watcher = watched.watcher
    assert watcher is not None
    probe.every = 1
    watcher.probes[:] = [probe]
    watcher.budget.share = 1.0
    costs = []
    for batch in next(turns)[:count]:
        costs.append(watched.train([batch]) - plain.train([batch]))
    row = watcher.record.rows("curvature").last
    if row is None or row.get("reason"):
        raise RuntimeError(f"Curvature was not measured: {row}.")
    return median(costs)


def check_same(a: nn.Module, b: nn.Module) -> None:
    """Raise `RuntimeError` unless both models have equal weights."""
    if not all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True)):
        raise RuntimeError("The sides have trained different weights.")


def table_of(rows: list[Row]) -> str:
    """Return a Markdown table."""
    lines = [
        "| network | optimizer | must | aim | overhead | without curvature, quartiles | curvature, once in 2000 | "
        "step, CPU ms | rows |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for row in rows:
        counts = ", ".join(f"{count} {kind}" for kind, count in row.rows.items() if kind != "pulse")
        lines.append(
            f"| {row.task} | {row.optimizer} | {MUST:.0%} | {AIM:.0%} | {row.overhead + row.curvature:.2%} | "
            f"{row.overhead:.2%}, {row.low:.2%} to {row.high:.2%} | {row.curvature:.2%} | {1e3 * row.step:.1f} | "
            f"{counts} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--text", help="folder with input.txt; without it, only Fashion-MNIST is measured")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of 100 steps")
    parser.add_argument("--tasks", nargs="+", default=["fashion-mnist", "char-transformer"])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--quick", action="store_true", help="two blocks")
    options = parser.parse_args()
    blocks = 2 if options.quick else options.blocks
    makers: dict[str, Callable[[], Problem]] = {
        "fashion-mnist": lambda: tasks.get("fashion-mnist", data_dir=options.data_dir).build(0),
        "char-transformer": lambda: char_transformer.task(data_dir=options.text).build(0),
    }
    wanted = [name for name in options.tasks if name != "char-transformer" or options.text]
    print(stamp(), f"torch {torch.__version__}, one thread; load average {os.getloadavg()[0]:.1f}.\n", flush=True)
    rows = []
    with threads(1):
        for task, name in itertools.product(wanted, options.optimizers):
            row = measured(task, makers[task](), name, blocks)
            rows.append(row)
            shares = ", ".join(f"{kind} {share:.2%}" for kind, share in row.shares.items())
            print(f"{task}, {name}: {shares} of the wall time by the watcher's own count.", flush=True)
    print("", table_of(rows), sep="\n")


if __name__ == "__main__":
    main()
