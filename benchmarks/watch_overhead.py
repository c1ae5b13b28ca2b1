"""Overhead of `dashpot.watch`: a training step with all measurements relative to the same step without.

    python benchmarks/watch_overhead.py --data-dir FOLDER [--text FOLDER] [--blocks N] [--quick]

Two copies of a network train on the same batches in one process, alternating after every step, one of them watched with
the default measurements: gradient norms and warnings at every step, norms of updates every 10, noise scale every 100,
and dynamics, spectra and temperatures. Both sides must end with equal weights. Each step has a ratio of CPU times.
Steps are grouped by the measurements made in them, and the overhead is the mean of the medians of the groups, weighted
by their number of steps, so that neither rare measurements nor disturbances by other processes are lost or
overweighted. The first 10 steps are a warm-up. Curvature is measured separately: the median CPU time of a measurement,
divided by that of 2000 steps.

FOLDER contains the files of Fashion-MNIST (network and batch size of the task), `--text` input.txt for the character
transformer of `benchmarks/char_transformer.py`.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
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

BLOCK, WARM_UP = 100, 10
EVERY_STEP = frozenset({"pulse", "warning", "cost"})
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
    ordinary: float
    curvature: float
    step: float
    shares: dict[str, float]
    rows: dict[str, int]


class Pair(NamedTuple):
    """CPU seconds of a step on both sides, and the kinds of measurements that are not made at every step."""

    plain: float
    watched: float
    kinds: frozenset[str]


class Side:
    """A model with its optimizer, trained on given batches."""

    def __init__(self, problem: Problem, optimizer: Callable[[Any], torch.optim.Optimizer], watched: bool) -> None:
        self.model = copy.deepcopy(problem.model)
        self.loss: Any = problem.loss
        self.opt = optimizer(self.model.parameters())
        self.watcher: Watcher | None = watch(self.opt, self.model) if watched else None
        self.model.train()

    def train(self, x: Tensor, y: Tensor) -> float:
        """Take a step; return the CPU seconds."""
        start = time.process_time()
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


def batches_of(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end."""
    train: Any = problem.train
    return itertools.chain.from_iterable(train.epoch(epoch) for epoch in itertools.count())


def measured(task: str, problem: Problem, name: str, blocks: int) -> Row:
    plain, watched = (Side(problem, OPTIMIZERS[name], watched) for watched in (False, True))
    watcher = watched.watcher
    assert watcher is not None
    curvature = next(probe for probe in watcher.probes if probe.kind == "curvature")
    watcher.probes.remove(curvature)
    batches = batches_of(problem)
    pairs = [step_pair(plain, watched, number, next(batches)) for number in range(BLOCK * blocks)][WARM_UP:]
    check_same(plain.model, watched.model)
    step = median(pair.plain for pair in pairs)
    status, counts = watcher.status(), {kind: len(rows) for kind, rows in watcher.record.series.items()}
    share = curvature_cost(plain, watched, curvature, batches) / (CURVATURE_STEPS * step)
    return Row(task, name, *overhead_of(pairs), share, step, status["by_kind"], counts)


def overhead_of(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the overhead of all steps, and that of steps with gradient norms only."""
    groups: dict[frozenset[str], list[float]] = {}
    for pair in pairs:
        groups.setdefault(pair.kinds, []).append(pair.watched / pair.plain - 1)
    total = sum(len(ratios) * median(ratios) for ratios in groups.values()) / len(pairs)
    return total, median(groups.get(frozenset(), [math.nan]))


def step_pair(plain: Side, watched: Side, number: int, batch: tuple[Tensor, Tensor]) -> Pair:
    """Take the same step on both sides, in an order that alternates."""
    assert watched.watcher is not None
    counts = watched.watcher.budget.counts
    before = dict(counts)
    sides = (plain, watched) if number % 2 else (watched, plain)
    seconds = {side: side.train(*batch) for side in sides}
    kinds = frozenset(kind for kind, count in counts.items() if count > before.get(kind, 0)) - EVERY_STEP
    return Pair(seconds[plain], seconds[watched], kinds)


def curvature_cost(
    plain: Side, watched: Side, probe: Any, batches: Iterator[tuple[Tensor, Tensor]], count: int = 3
) -> float:
    """Return the median CPU seconds of a measurement of curvature, on the watched side alone."""
    watcher = watched.watcher
    assert watcher is not None
    probe.every = 1
    watcher.probes[:] = [probe]
    watcher.budget.share = 1.0
    costs = []
    for x, y in itertools.islice(batches, count):
        costs.append(watched.train(x, y) - plain.train(x, y))
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
        "| network | optimizer | must | aim | overhead | steps with gradient norms only | all steps | "
        "curvature, once in 2000 | step, CPU ms | rows |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for row in rows:
        counts = ", ".join(f"{count} {kind}" for kind, count in row.rows.items() if kind != "pulse")
        lines.append(
            f"| {row.task} | {row.optimizer} | {MUST:.0%} | {AIM:.0%} | {row.overhead + row.curvature:.2%} | "
            f"{row.ordinary:.2%} | {row.overhead:.2%} | {row.curvature:.2%} | {1e3 * row.step:.1f} | {counts} |"
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
