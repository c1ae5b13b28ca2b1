"""Overhead of the learner: its CPU time relative to a plain loop with the same steps.

    python benchmarks/loop.py [--threads 1 2] [--rounds N] [--write docs/performance.md]

Three loops train copies of one network with AdamW in one process and alternate every few steps: a plain PyTorch loop, a
plain loop that also sums loss and accuracy, and a fit of the learner with `Recorder` and `Progress`. The alternation is
implemented in the data source of the learner, which runs the steps of the plain loops before it yields the next
batches. A round is an epoch of 32 batches, including the work of the learner between epochs. The ratio of a round is
that of the total CPU times, and the result is the median over the rounds. The interval between redraws of the live line
is multiplied by the number of loops, so that redraws per CPU time of the learner are as frequent as in a separate fit.
"""

from __future__ import annotations

import argparse
import copy
import io
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple, TextIO

import torch
from page import Section
from timing import threads
from torch import Tensor

import dashpot as dp
from dashpot import tasks
from dashpot.data import Batches
from dashpot.tasks import Problem
from dashpot.training import Engine, Learner
from dashpot.training.callbacks.progress import Progress
from dashpot.training.callbacks.recorder import Recorder

SECTION = Section("<!-- tables of benchmarks/loop.py -->", "<!-- end of tables of benchmarks/loop.py -->")
MUST = 1.03
STEPS = 32  # number of steps per round
REFRESH = 0.125  # seconds between redraws of the live line in a separate fit
CASES = {"fashion-mnist": (512, 2), "digits": (46, 8)}
"""Batch size and steps per turn for each task."""
SIDES = ("bare", "sums", "learner")

Seconds = tuple[float, float]


class Terminal(io.TextIOWrapper):
    """A terminal that discards its output."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self) -> bool:
        return True


class Row(NamedTuple):
    """CPU time and wall time relative to the plain loop, and additional CPU seconds per step."""

    task: str
    against: str
    shown: str
    ratio: float
    low: float
    high: float
    wall: float
    extra: float
    step: float
    rounds: int


class BareLoop:
    """A handwritten training loop."""

    def __init__(self, problem: Problem, sums: bool) -> None:
        self.problem, self.sums = copy.deepcopy(problem), sums
        self.opt = adamw(self.problem)
        self.batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        self.means: list[float] = []

    def begin(self, epoch: int) -> None:
        self.batches = self.problem.train.epoch(epoch)
        self.problem.model.train()
        self.loss, self.right, self.count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0

    def steps(self, count: int) -> None:
        model, loss_of, opt = self.problem.model, self.problem.loss, self.opt
        for _, (x, y) in zip(range(count), self.batches, strict=False):
            output = model(x)
            loss = loss_of(output, y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            if self.sums:
                self.loss += loss.detach() * len(x)
                self.right += (output.detach().argmax(dim=1) == y).sum()
                self.count += len(x)

    def end(self) -> None:
        if self.sums:
            self.means = [self.loss.item() / self.count, self.right.item() / self.count]


def adamw(problem: Problem) -> dp.AdamW:
    return dp.AdamW(problem.model.parameters(), lr=1e-3)


class Turns:
    """Data source of the learner that runs the plain loops before each turn, and measures all three loops."""

    def __init__(self, batches: Batches, others: list[BareLoop], turn: int) -> None:
        self.batches, self.others, self.turn = batches, others, turn
        self.rounds: list[list[Seconds]] = []
        self._since: Seconds | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch; time after the last batch of an epoch counts for that epoch."""
        self.stop()
        self.rounds.append([(0.0, 0.0)] * (1 + len(self.others)))
        for side, other in enumerate(self.others):
            self._timed(side, lambda other=other: other.begin(index))
        for number, batch in enumerate(self.batches.epoch(index)):
            if number % self.turn == 0:
                self.stop()
                sides = list(enumerate(self.others))
                for side, other in sides if number // self.turn % 2 else reversed(sides):
                    self._timed(side, lambda other=other: other.steps(self.turn))
                self._since = clocks()
            yield batch
        self.stop()
        for side, other in enumerate(self.others):
            self._timed(side, other.end)
        self._since = clocks()

    def stop(self) -> None:
        """End the turn of the learner."""
        if self._since is not None:
            self._add(-1, self._since)
            self._since = None

    def _timed(self, side: int, action: Callable[[], None]) -> None:
        since = clocks()
        action()
        self._add(side, since)

    def _add(self, side: int, since: Seconds) -> None:
        cpu, wall = (now - then for now, then in zip(clocks(), since, strict=True))
        before = self.rounds[-1][side]
        self.rounds[-1][side] = before[0] + cpu, before[1] + wall


def clocks() -> Seconds:
    return time.process_time(), time.perf_counter()


def measured(name: str, stream: TextIO, rounds: int) -> list[Row]:
    """Measure the learner and both plain loops; the first round is a warm-up."""
    size, turn = CASES[name]
    problem = tasks.get(name, batch_size=size, validation_size=0).build(0)
    data = problem.train
    assert isinstance(data, Batches)
    problem.train = Batches(data.x[: STEPS * size], data.y[: STEPS * size], size)
    others = [BareLoop(problem, sums=sums) for sums in (False, True)]
    turns = Turns(problem.train, others, turn)
    learner = Learner(
        problem.model,
        turns,
        loss=problem.loss,
        metrics=problem.metrics,
        optimizer=adamw(problem),
        callbacks=[Recorder("lr"), Progress(stream, every_s=REFRESH * len(SIDES))],
        engine=Engine("cpu"),
    )
    learner.fit(rounds + 1)
    turns.stop()
    check_same(learner, others)
    shown = "live line" if stream.isatty() else "lines"
    return [row(name, SIDES[side], shown, side, turns) for side in range(len(others))]


def row(name: str, against: str, shown: str, side: int, turns: Turns) -> Row:
    counted = turns.rounds[1:]
    ratios = [times[-1][0] / times[side][0] for times in counted]
    low, _, high = quantiles(ratios, n=4)
    steps = len(turns)
    extra = median((times[-1][0] - times[side][0]) / steps for times in counted)
    wall = median(times[-1][1] / times[side][1] for times in counted)
    step = median(times[side][0] for times in counted) / steps
    return Row(name, against, shown, median(ratios), low, high, wall, extra, step, len(counted))


def check_same(learner: Learner, others: list[BareLoop]) -> None:
    """Raise `RuntimeError` unless all three loops have equal weights and means."""
    for other in others:
        pairs = zip(learner.model.parameters(), other.problem.model.parameters(), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            raise RuntimeError("The sides have trained different weights.")
    means = learner.history[-1]["train"]
    loss, right = others[1].means
    if abs(means["loss"] - loss) > 1e-5 * loss or means["accuracy"] != right:  # the plain loops sum in float32
        raise RuntimeError(f"The sides have measured different means: {means} and {others[1].means}.")


def table(count: int, rows: list[Row]) -> str:
    """Return a Markdown table of the rows on `count` threads."""
    lines = [
        f"### {count} thread{'s' if count > 1 else ''}",
        "",
        "| task | against a bare loop | progress | must | CPU ratio | quartiles | verdict | wall ratio "
        "| more CPU, µs a step | bare, ms a step | rounds |",
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for r in rows:
        limit = f"{MUST:.2f}" if r.task == "fashion-mnist" else ""
        verdict = "" if not limit else "must" if r.ratio <= MUST else "**missed**"
        against = "without sums" if r.against == "bare" else "with sums of loss and accuracy"
        lines.append(
            f"| {r.task} | {against} | {r.shown} | {limit} | {r.ratio:.3f} | {r.low:.3f} to {r.high:.3f} | {verdict} "
            f"| {r.wall:.3f} | {1e6 * r.extra:.0f} | {1e3 * r.step:.2f} | {r.rounds} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=12, help="rounds of Fashion-MNIST; digits use four times as many")
    parser.add_argument("--tasks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    options = parser.parse_args()
    SECTION.check(options.write)
    parts = [
        f"{platform.machine()}, {platform.system()}; torch {torch.__version__}, Python {platform.python_version()}; "
        f"AdamW, rounds of {STEPS} steps; load average at the start {os.getloadavg()[0]:.1f}."
    ]
    print(parts[0], "\n")
    for count in options.threads:
        with threads(count):
            rows = []
            for name in options.tasks:
                rounds = options.rounds * (1 if name == "fashion-mnist" else 4)
                for stream in (io.StringIO(), Terminal()):
                    rows += measured(name, stream, rounds)
        parts.append(table(count, rows))
        print(parts[-1], "\n", flush=True)
    SECTION.write(options.write, "\n\n".join(parts))


if __name__ == "__main__":
    main()
