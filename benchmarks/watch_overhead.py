"""Overhead of `dashpot.watch`: a training step with all measurements relative to the same step without.

    python benchmarks/watch_overhead.py --data-dir FOLDER [--text FOLDER] [--blocks N] [--quick]

A network trains in one process, and every second step is watched with the default measurements: gradient norms and
warnings at every step, norms of updates every 10, noise scale every 100, and dynamics, spectra and temperatures. For
the other steps, the hooks of the watcher are removed. Two copies of the network would differ by 1 to 2 % in time,
depending on their places in memory, so there is only one. A watched step is compared with the mean of the plain steps
before and after it, in CPU time. Steps are grouped by the measurements made in them, and the overhead is the mean of
the trimmed means of the groups, weighted by their number of steps, so that neither rare measurements nor disturbances
by other processes are lost or overweighted; warnings are computed for three steps at once. The first 150 watched steps,
in which the noise scale is measured more often, are a warm-up. Curvature is measured separately: the median CPU time of
a measurement, divided by that of 2000 steps.

FOLDER contains the files of Fashion-MNIST (network and batch size of the task), `--text` input.txt for the character
transformer of `benchmarks/char_transformer.py`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import char_transformer
import torch
from processor import stamp
from timing import threads
from torch import Tensor

import dashpot as dp
from dashpot import tasks
from dashpot.tasks import Problem
from dashpot.watching import watch

BLOCK, WARM_UP = 100, 150
CONSECUTIVE = frozenset({"noise", "dynamics"})
"""Kinds of measurements over two consecutive steps."""
EVERY_STEP = frozenset({"pulse", "alarms", "cost"})
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
    """CPU seconds of a watched step and of plain steps, and the kinds of measurements not made at every step."""

    plain: float
    watched: float
    kinds: frozenset[str]


class Run:
    """A training whose watcher can be removed and attached again between steps."""

    def __init__(self, problem: Problem, optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
        self.model = problem.model.train()
        self.loss: Any = problem.loss
        self.opt = optimizer(self.model.parameters())
        self.watcher = watch(self.opt, self.model)
        before: Any = self.opt._optimizer_step_pre_hooks
        after: Any = self.opt._optimizer_step_post_hooks
        self._hooks = (before, dict(before)), (after, dict(after))

    def attach(self, watched: bool) -> None:
        """Attach or remove the hooks of the watcher."""
        for hooks, kept in self._hooks:
            hooks.clear()
            hooks.update(kept if watched else {})

    def is_between(self) -> bool:
        """Return whether a measurement needs the next step."""
        return any(probe.pending for probe in self.watcher.probes if probe.kind in CONSECUTIVE)

    def train(self, x: Tensor, y: Tensor, watched: bool) -> float:
        """Take a step; return the CPU seconds."""
        self.attach(watched)
        self.watcher.budget.skip()
        start = time.process_time()
        loss = self.loss(self.model(x), y)
        loss.backward()
        if watched:
            self._observe(loss, x, y)
        self.opt.step()
        self.opt.zero_grad()
        return time.process_time() - start

    def _observe(self, loss: Tensor, x: Tensor, y: Tensor) -> None:
        def part(first: int, last: int) -> Tensor:
            return self.loss(self.model(x[first:last]), y[first:last])

        self.watcher.observe(loss, closure=lambda: part(0, len(x)), sliced=part, size=len(x))


def batches_of(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches without end."""
    train: Any = problem.train
    return itertools.chain.from_iterable(train.epoch(epoch) for epoch in itertools.count())


def measured(task: str, problem: Problem, name: str, blocks: int) -> Row:
    run = Run(problem, OPTIMIZERS[name])
    watcher = run.watcher
    curvature = next(probe for probe in watcher.probes if probe.kind == "curvature")
    watcher.probes.remove(curvature)
    batches = batches_of(problem)
    pairs = list(itertools.islice(steps(run, batches), WARM_UP + BLOCK * blocks))[WARM_UP:]
    step = median(pair.plain for pair in pairs)
    status, counts = watcher.status(), {kind: len(rows) for kind, rows in watcher.record.series.items()}
    share = curvature_cost(run, curvature, batches) / (CURVATURE_STEPS * step)
    return Row(task, name, *overhead_of(pairs), share, step, status["by_kind"], counts)


def steps(run: Run, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[Pair]:
    """Alternate plain and watched steps, and yield the watched ones."""
    plain = run.train(*next(batches), watched=False)
    while True:
        found = [watched_step(run, *next(batches))]
        while run.is_between():
            found.append(watched_step(run, *next(batches)))
        last, plain = plain, run.train(*next(batches), watched=False)
        for seconds, kinds in found:
            yield Pair((last + plain) / 2, seconds, kinds)


def watched_step(run: Run, x: Tensor, y: Tensor) -> tuple[float, frozenset[str]]:
    """Take a watched step; return the CPU seconds and the kinds of measurements not made at every step."""
    counts = run.watcher.budget.counts
    before = dict(counts)
    seconds = run.train(x, y, watched=True)
    return seconds, frozenset(kind for kind, count in counts.items() if count > before.get(kind, 0)) - EVERY_STEP


def overhead_of(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the overhead of all steps, and that of steps with gradient norms only."""
    groups: dict[frozenset[str], list[float]] = {}
    for pair in pairs:
        groups.setdefault(pair.kinds, []).append(pair.watched / pair.plain - 1)
    total = sum(len(ratios) * typical(ratios) for ratios in groups.values()) / len(pairs)
    return total, typical(groups.get(frozenset(), [math.nan]))


def typical(values: Sequence[float]) -> float:
    """Return the mean without a tenth of the values at each end; of fewer than 20 values, the median."""
    cut = len(values) // 10
    return mean(sorted(values)[cut : len(values) - cut]) if cut > 1 else median(values)


def curvature_cost(run: Run, probe: Any, batches: Iterator[tuple[Tensor, Tensor]], count: int = 3) -> float:
    """Return the median CPU seconds of a measurement of curvature."""
    probe.every = 1
    run.watcher.probes[:] = [probe]
    run.watcher.budget.share = 1.0
    costs = []
    for x, y in itertools.islice(batches, count):
        plain = run.train(x, y, watched=False)
        costs.append(run.train(x, y, watched=True) - plain)
    row = run.watcher.record.rows("curvature").last
    if row is None or row.get("reason"):
        raise RuntimeError(f"Curvature was not measured: {row}.")
    return median(costs)


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
    parser.add_argument("--blocks", type=int, default=4, help="blocks of 100 watched steps")
    parser.add_argument("--tasks", nargs="+", default=["fashion-mnist", "char-transformer"])
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--quick", action="store_true", help="one block")
    options = parser.parse_args()
    blocks = 1 if options.quick else options.blocks
    makers: dict[str, Callable[[], Problem]] = {
        "fashion-mnist": lambda: tasks.get("fashion-mnist", validation_size=0, data_dir=options.data_dir).build(0),
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
