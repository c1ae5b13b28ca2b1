"""Cost of Hessian-vector products: training steps of ESGD on each route relative to AdamW.

    python benchmarks/products.py [--threads 1 2] [--budget SECONDS] [--write docs/performance.md]

The network is that of the Fashion-MNIST task. Batches contain 512 random images, which cost as much as real images.
Every tenth step computes a product. In each round, AdamW takes ten steps, and then ESGD takes ten steps on a separate
copy, one of them with a product. The result is the median ratio over the rounds. Forward pass, backward pass and step
are timed.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import torch
from page import Section
from timing import threads
from torch import Tensor, nn

import dashpot as dp
from dashpot.tasks import fashion_mnist

SECTION = Section("<!-- tables of benchmarks/products.py -->", "<!-- end of tables of benchmarks/products.py -->")
MUST = {"opt.backward": 1.25, "graph": 1.25, "closure": 1.25, "forward": 1.25, "differences": 1.35}
EVERY = 10
WARM_UP = 2  # rounds that are not timed

Step = Callable[[], None]


class Row(NamedTuple):
    """Median and quartiles of the ratio of a route to AdamW, and the seconds per step of both optimizers."""

    route: str
    value: float
    low: float
    high: float
    ours: float
    theirs: float
    rounds: int


def training(route: str | None, batch: tuple[Tensor, Tensor]) -> Step:
    """Return a function that takes one training step, with AdamW if `route` is None."""
    torch.manual_seed(0)
    model, loss_of = fashion_mnist.network(), nn.CrossEntropyLoss()
    params = list(model.parameters())
    x, y = batch
    if route is None:
        plain = dp.AdamW(params, lr=1e-3)
        return lambda: _plain_step(plain, lambda: loss_of(model(x), y), Tensor.backward)
    probe = "auto" if route == "opt.backward" else route
    opt = dp.ESGD(params, lr=0.1, update_d_every=EVERY, d_warmup=1, probe=probe)
    if route == "opt.backward":
        return lambda: _plain_step(opt, lambda: loss_of(model(x), y), opt.backward)
    if route == "graph":
        return lambda: _plain_step(
            opt, lambda: loss_of(model(x), y), lambda loss: loss.backward(create_graph=opt.should_create_graph())
        )

    def closure() -> Tensor:
        opt.zero_grad()
        loss = loss_of(model(x), y)
        loss.backward()
        return loss

    return lambda: opt.step(closure)


def _plain_step(opt: dp.Optimizer, loss: Callable[[], Tensor], backward: Callable[[Tensor], None]) -> None:
    opt.zero_grad()
    backward(loss())
    opt.step()


def measured(route: str, batch: tuple[Tensor, Tensor], budget: float) -> Row:
    """Measure one route and AdamW in alternation for `budget` seconds."""
    theirs, ours = training(None, batch), training(route, batch)
    times: list[tuple[float, float]] = []
    start, skipped = 0.0, 0
    while skipped < WARM_UP or len(times) < 5 or time.perf_counter() - start < budget:
        pair = _seconds(theirs), _seconds(ours)
        if skipped < WARM_UP:
            skipped, start = skipped + 1, time.perf_counter()
        else:
            times.append(pair)
    ratios = [b / a for a, b in times]
    low, _, high = quantiles(ratios, n=4)
    ours_s, theirs_s = median(b for _, b in times) / EVERY, median(a for a, _ in times) / EVERY
    return Row(route, median(ratios), low, high, ours_s, theirs_s, len(times))


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    for _ in range(EVERY):
        step()
    return time.perf_counter() - start


def table(count: int, rows: list[Row]) -> str:
    """Return a Markdown table of the routes on `count` threads."""
    lines = [
        f"### {count} thread{'s' if count > 1 else ''}",
        "",
        "| route | must | ratio to AdamW | quartiles | verdict | ms a step | AdamW, ms | rounds of ten |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        verdict = "must" if row.value <= MUST[row.route] else "**missed**"
        lines.append(
            f"| {row.route} | {MUST[row.route]:.2f} | {row.value:.2f} | {row.low:.2f} to {row.high:.2f} | {verdict} "
            f"| {1e3 * row.ours:.1f} | {1e3 * row.theirs:.1f} | {row.rounds} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each route and number of threads")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this file")
    options = parser.parse_args()
    SECTION.check(options.write)
    # torch warns about the reference cycle of create_graph=True, which the optimizer breaks.
    warnings.filterwarnings("ignore", "Using backward", UserWarning)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 1, 28, 28, generator=generator)
    batch = x, torch.randint(0, 10, (512,), generator=generator)
    parts = [
        f"{platform.machine()}, {platform.system()}; torch {torch.__version__}, Python {platform.python_version()}; "
        f"a product at every {EVERY}th step, batches of 512."
    ]
    for count in options.threads:
        with threads(count):
            parts.append(table(count, [measured(route, batch, options.budget) for route in MUST]))
        print("\n\n".join(parts[-1:]), flush=True)
    SECTION.write(options.write, "\n\n".join(parts))


if __name__ == "__main__":
    main()
