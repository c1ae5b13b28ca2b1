"""Check of `watcher.advise`: final loss after four times the batch, against tuned learning rates.

    python benchmarks/watch_advice.py --data-dir FOLDER [--results FILE] [--near] [CASE ...]

FOLDER contains input.txt. Each case has a method, a schedule (a warm-up over a tenth of the steps, then a cosine), a
small batch and a number of examples. The loss is that of the held-out data after the last step. Protocol:

1. Base: the learning rate of the small batch is tuned on powers of two, until the best has worse neighbours.
2. Advice: the base run with seed 0 is watched, and `watcher.advise(batch=4 * batch)` gives settings and schedule.
3. Reference: with four times the batch and the same examples, the learning rate is tuned in the same way; the other
   settings are those of the base, and the schedule is divided by four.
4. Verdict: the mean loss of the advice over the seeds is at most that of the reference plus its standard deviation
   over the seeds. No advice counts as a miss.

The column "lr only" contains the losses of the unchanged lr and of the plain rules with the other settings of the base;
with --near, the next one those of half and twice the advised lr with the other settings of the advice.

The results of finished runs are appended to FILE as JSON lines, and not repeated.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import char_transformer
import torch
from processor import stamp
from table import table
from torch import Tensor

import dashpot as dp
from dashpot import tasks
from dashpot.data import Batches
from dashpot.schedules import Schedule
from dashpot.tasks import Problem
from dashpot.watching import Watcher
from dashpot.watching.advice import advise
from dashpot.watching.series import WatchRecord

RATIO = 4


class Case(NamedTuple):
    """A problem: method, settings, batch size, number of examples of a run, and seeds.

    Args:
        start: Learning rate at which the searches start, a power of two.
        base_seeds, seeds: Numbers of seeds of the small and of the large batch.
        limit: Number of training examples, or None.
    """

    name: str
    method: type[dp.Optimizer]
    settings: dict[str, Any]
    batch: int
    examples: int
    start: float
    base_seeds: int
    seeds: int
    limit: int | None = None

    def schedule(self, batch: int) -> Schedule:
        return dp.schedules.from_name("warmup-cosine", self.examples // batch)


CASES = [
    Case("digits", dp.SGD, {"momentum": 0.9, "weight_decay": 5e-4}, 50, 18_000, 2**-2, 3, 15),
    Case("fashion-mnist", dp.AdamW, {"betas": (0.9, 0.99), "weight_decay": 0.01}, 64, 19_200, 2**-6, 1, 3, 20_000),
    Case("digits/adamw", dp.AdamW, {"betas": (0.9, 0.99), "weight_decay": 0.01}, 25, 9_000, 2**-6, 3, 10),
    Case("gpt", dp.AdamW, {"betas": (0.9, 0.99), "weight_decay": 0.1}, 12, 3840, 2**-8, 1, 3),
]


@functools.cache
def task_of(name: str, batch: int, data_dir: str | None) -> tasks.Task:
    if name == "gpt":
        return char_transformer.task(data_dir=data_dir, batch_size=batch, steps=10**6)
    return tasks.get(name.partition("/")[0], batch_size=batch, shuffle=True, validation_size=0)


def problem_of(case: Case, batch: int, seed: int, data_dir: str | None) -> Problem:
    problem = task_of(case.name, batch, data_dir).build(seed)
    given: Any = problem.train
    if case.limit is not None:
        problem.train = Batches(given.x[: case.limit], given.y[: case.limit], batch, shuffle=True, seed=seed)
    return problem


def batches(problem: Problem, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    stream: Any = problem.train
    for step, pair in enumerate(pair for epoch in range(10**6) for pair in stream.epoch(epoch)):
        if step == steps:
            return
        yield pair


class Result(NamedTuple):
    """Mean and standard deviation over seeds."""

    mean: float
    sd: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if math.isnan(self.sd) else f"{self.mean:.4f} (sd {self.sd:.4f})"


class Bench:
    """Runs of a case, with results as JSON lines."""

    def __init__(self, path: Path, data_dir: str | None, *, near: bool = False) -> None:
        self.path, self.data_dir, self.near = path, data_dir, near
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows = {json.dumps(row["key"]): row for row in map(json.loads, lines)}

    def loss(self, case: Case, batch: int, settings: dict[str, Any], schedule: Schedule, seed: int) -> float:
        """Return the loss of a run, from the file if it has one."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        if schedule != case.schedule(batch):
            plain["schedule"] = repr(schedule)
        key = [case.name, case.examples, batch, dict(sorted(plain.items())), seed]
        name = json.dumps(key)
        if name not in self.rows:
            start = time.perf_counter()
            loss = self.train(case, batch, settings, schedule, seed)
            self.rows[name] = {"key": key, "loss": loss, "seconds": round(time.perf_counter() - start, 1)}
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[name]) + "\n")
        return float(self.rows[name]["loss"])

    def train(
        self,
        case: Case,
        batch: int,
        settings: dict[str, Any],
        schedule: Schedule,
        seed: int,
        watch: Callable[..., Watcher] | None = None,
    ) -> float:
        """Train, and return the loss of the evaluation."""
        problem = problem_of(case, batch, seed, self.data_dir)
        model, loss_of = problem.model, problem.loss
        assert callable(loss_of)
        optimizer = case.method(model.parameters(), **settings, schedule=schedule)
        watcher = watch(optimizer, model) if watch is not None else None
        for x, y in batches(problem, case.examples // batch):
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            if watcher is not None:
                watcher.observe(loss, sliced=functools.partial(_part, model, loss_of, x, y), size=len(x))
            optimizer.step()
        value = tasks.evaluate(problem)["loss"]
        return value if math.isfinite(value) else math.inf

    def noise(self, case: Case, settings: dict[str, Any]) -> WatchRecord:
        """Return the noise rows of a watched base run, from the file if it has them."""
        key = [case.name, case.examples, "noise", settings["lr"]]
        name = json.dumps(key)
        if name not in self.rows:
            made: list[Watcher] = []

            def watch(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> Watcher:
                made.append(dp.watch(optimizer, model, budget=1.0, steps=case.examples // case.batch))
                return made[0]

            self.train(case, case.batch, settings, case.schedule(case.batch), 0, watch)
            made[0].close()
            self.rows[name] = {"key": key, "rows": list(made[0].record.rows("noise"))}
            with self.path.open("a") as file:
                file.write(json.dumps(self.rows[name]) + "\n")
        record = WatchRecord({})
        for row in self.rows[name]["rows"]:
            record.add("noise", row)
        return record

    def result(self, case: Case, batch: int, settings: dict[str, Any], schedule: Schedule, seeds: int) -> Result:
        losses = [self.loss(case, batch, settings, schedule, seed) for seed in range(seeds)]
        found = Result(mean(losses), stdev(losses) if seeds > 1 and math.isfinite(max(losses)) else math.nan)
        print(f"{case.name}, batch {batch}, {settings}: {found}", flush=True)
        return found

    def tuned(self, case: Case, batch: int, seeds: int, start: float) -> dict[float, Result]:
        """Return the results of learning rates start 2^k, until the best has worse neighbours."""
        found: dict[float, Result] = {}
        wanted = [start, start / 2, 2 * start]
        while wanted:
            for lr in wanted:
                found[lr] = self.result(case, batch, {**case.settings, "lr": lr}, case.schedule(batch), seeds)
            best = _best(found)
            wanted = [lr for lr in (best / 2, 2 * best) if lr not in found]
        return found


def _part(model: Any, loss_of: Any, x: Tensor, y: Tensor, first: int, last: int) -> Tensor:
    return loss_of(model(x[first:last]), y[first:last])


def _best(found: dict[float, Result]) -> float:
    return min(found, key=lambda lr: found[lr].mean)


def optimizer_of(case: Case, settings: dict[str, Any]) -> dp.Optimizer:
    """Return an optimizer with the settings of the base run."""
    weight = torch.nn.Parameter(torch.zeros(1))
    return case.method([weight], **settings, schedule=case.schedule(case.batch))


def check(bench: Bench, case: Case) -> list[str]:
    """Run a case, and return its row of the table."""
    large = RATIO * case.batch
    lr = _best(bench.tuned(case, case.batch, case.base_seeds, case.start))
    base = {**case.settings, "lr": lr}
    advice = advise(bench.noise(case, base), optimizer_of(case, base), large)
    print(advice, flush=True)
    reference = bench.tuned(case, large, case.seeds, lr)
    tuned = reference[_best(reference)]
    row = [case.name, f"{lr:.3g}", f"{_best(reference):.3g}: {tuned}"]
    if advice.reason is not None or advice.noise is None:
        return [*row, "", advice.reason or "", "**missed**", "", ""]
    settings = {**base, **advice.settings}
    new = advice.schedule["lr"]
    found = bench.result(case, large, settings, new, case.seeds)
    verdict = "within" if found.mean <= tuned.mean + tuned.sd else "**missed**"
    print(f"{case.name}: {found}, reference {tuned}: {verdict}", flush=True)
    factors = [(1, "unchanged"), (2, "square root"), (4, "linear")]
    plain = [
        f"{name} {bench.result(case, large, {**base, 'lr': f * lr}, case.schedule(large), case.seeds).mean:.4f}"
        for f, name in factors
    ]
    near = [
        f"{factor:g} lr: {bench.result(case, large, {**settings, 'lr': factor * settings['lr']}, new, case.seeds)}"
        for factor in ((0.5, 2) if bench.near else ())
    ]
    interval = f"{advice.noise.scale:.0f} ({advice.noise.low:.0f} to {advice.noise.high:.0f})"
    return [*row, interval, f"{settings['lr']:.3g}: {found}", verdict, ", ".join(plain), ", ".join(near)]


HEADS = [
    "case",
    "tuned lr, batch B",
    "tuned lr and loss, 4B",
    "noise scale",
    "advice, 4B",
    "verdict",
    "lr only, 4B",
    "near the advice",
]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--data-dir", help="folder of input.txt")
    parser.add_argument("--results", type=Path, default=Path("watch_advice.jsonl"))
    parser.add_argument("--near", action="store_true", help="also half and twice the advised learning rate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(given.results, given.data_dir, near=given.near)
    rows = [check(bench, case) for case in CASES if not given.cases or case.name in given.cases]
    print(f"\n{stamp()}\n\n{table(HEADS, rows)}")


if __name__ == "__main__":
    main()
