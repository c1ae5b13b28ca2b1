"""Iterations until a loss of 1e-8 on small hard problems, each method at its best learning rate, as Markdown tables.

    python benchmarks/convergence.py                           # everything, about eight minutes
    python benchmarks/convergence.py --only Rosenbrock         # problems whose name holds a text
    python benchmarks/convergence.py --quick                   # at most 2000 iterations: a look, no result
    python benchmarks/convergence.py --write docs/results.md   # also replace the tables there

All learning rates of a method run side by side through the functional form, mapped over by `torch.func.vmap`, until one
of them has arrived: that is the best. Random probes double the rows: several runs for each rate, of which more than
half have to arrive. Then the method's own class repeats the best rate, with other probes, and these are the
figures of the table. Everything is in float64 and without noise in the gradient. Nothing here is part of the tests.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import dashpot as dp
from dashpot.engine.program import Numbers, take_in
from dashpot.functional import init, update
from dashpot.stages.base import Clock, Observation

BEGIN, END = "<!-- tables of benchmarks/convergence.py -->", "<!-- end of tables of benchmarks/convergence.py -->"
START = time.monotonic()

TARGET = 1e-8
BUDGET = 100_000
PER_DECADE, LOWEST, HIGHEST = 8, -5, 1
RATES = [10 ** (LOWEST + i / PER_DECADE) for i in range((HIGHEST - LOWEST) * PER_DECADE + 1)]
TRIALS = 5  # runs for each rate of a method with random probes, while the best rate is looked for
REPEATS = 15  # runs at the best rate, with other probes
DIMENSION, CONDITION = 20, 1e6


class Problem(NamedTuple):
    """A function with the minimum 0, on many points at once: the rows of a matrix.

    at
        values and gradients, of shapes (rows,) and (rows, n).
    product
        products of the Hessian at each row with the same row of another matrix.
    eigenvalues
        of a Hessian that is the same everywhere, else None.
    """

    name: str
    start: Tensor
    at: Callable[[Tensor], tuple[Tensor, Tensor]]
    product: Callable[[Tensor, Tensor], Tensor]
    eigenvalues: Tensor | None = None


class Method(NamedTuple):
    """A class with settings, all but the learning rate; `products` tells when a second-order one takes products."""

    name: str
    make: str
    settings: dict[str, Any]
    products: Products | None = None


class Products(NamedTuple):
    """Products on the first `warmup` steps, then at every `every`-th, with Gaussian probes or signs."""

    every: int
    warmup: int
    distribution: str = "rademacher"

    def due(self, step: int, last: int) -> bool:
        return step < self.warmup or step - last >= self.every

    def before(self, steps: int) -> int:
        """How many are taken in the first `steps` steps."""
        return min(steps, self.warmup) + max(0, (steps - self.warmup) // self.every)

    def settings(self) -> dict[str, Any]:
        """The same as arguments of a class."""
        return {"update_d_every": self.every, "d_warmup": self.warmup, "distribution": self.distribution}


class Found(NamedTuple):
    """What the search gave: the best rate and its iterations, or None and the least loss of any rate."""

    rate: float | None
    iterations: int
    least: float


def nag(pole: float, name: str = "") -> Method:
    return Method(f"NAG, pole {name or f'{pole:g}'}", "NAG", {"pole": pole})


ROOT = math.sqrt(CONDITION)
ESGD_TIMES, SOPHIA_TIMES = Products(10, 20), Products(10, 1, "gaussian")
METHODS = [
    Method("SGD", "SGD", {}),
    nag(0.9),
    nag(0.99),
    nag((ROOT - 1) / (ROOT + 1), "0.998"),  # the best for a quadratic of this condition
    Method("AdamW", "AdamW", {"weight_decay": 0.0}),
    Method("ESGD, version 1", "ESGD", {"version": 1}, ESGD_TIMES),
    Method("ESGD, version 2", "ESGD", {"version": 2}, ESGD_TIMES),
    Method("AdaHessian", "AdaHessian", {}, Products(1, 1)),
    Method("Sophia", "Sophia", {"weight_decay": 0.0}, SOPHIA_TIMES),
]


def rosenbrock(dimension: int) -> Problem:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 from (-1.2, 1, -1.2, 1, ...), least at (1, ..., 1)."""

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x[:, :-1], x[:, 1:]
        floor, rest = b - a * a, 1 - a
        grad = torch.zeros_like(x)
        grad[:, :-1] = -400 * a * floor - 2 * rest
        grad[:, 1:] += 200 * floor
        return (100 * floor * floor + rest * rest).sum(1), grad

    def product(x: Tensor, v: Tensor) -> Tensor:
        a, b, va, vb = x[:, :-1], x[:, 1:], v[:, :-1], v[:, 1:]
        out = torch.zeros_like(x)
        out[:, :-1] = (1200 * a * a - 400 * b + 2) * va - 400 * a * vb
        out[:, 1:] += 200 * vb - 400 * a * va
        return out

    start = torch.tensor([-1.2, 1.0], dtype=torch.float64).repeat(dimension // 2)
    return Problem(f"Rosenbrock, {dimension} dimensions", start, at, product)


def quadratic(*, rotated: bool) -> Problem:
    """w' H w / 2 with eigenvalues from 1e-3 to 1e3, evenly spaced in the logarithm, along the axes or turned.

    At the start the loss is 1, of which every eigenvector has the same share.
    """
    half = math.log10(CONDITION) / 2
    h = torch.logspace(-half, half, DIMENSION, dtype=torch.float64)
    start = (2 / DIMENSION / h).sqrt()
    if rotated:
        normal = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        q = torch.linalg.qr(normal).Q
        hessian, start = (q * h) @ q.T, q @ start

    def product(w: Tensor, v: Tensor) -> Tensor:
        del w
        return v @ hessian if rotated else v * h

    def at(w: Tensor) -> tuple[Tensor, Tensor]:
        grad = product(w, w)
        return (w * grad).sum(1) / 2, grad

    return Problem(f"Quadratic of condition 1e6, {'rotated' if rotated else 'diagonal'}", start, at, product, h)


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    if options.write and (BEGIN not in (text := options.write.read_text()) or END not in text):
        sys.exit(f"{options.write} must hold the lines {BEGIN} and {END}.")
    torch.set_num_threads(1)
    report = "\n\n".join(sections(options.only, 2000 if options.quick else BUDGET))
    print(report)
    if options.write:
        before, _, rest = options.write.read_text().partition(BEGIN)
        options.write.write_text(f"{before}{BEGIN}\n\n{report}\n\n{END}{rest.partition(END)[2]}")


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Iterations until a loss of 1e-8, as Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="at most 2000 iterations: a look, no result")
    parser.add_argument("--only", default="", metavar="TEXT", help="problems whose name holds TEXT")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also replace the tables in FILE")
    return parser.parse_args(arguments)


def problems() -> list[Problem]:
    return [rosenbrock(2), rosenbrock(10), quadratic(rotated=False), quadratic(rotated=True)]


def sections(only: str, budget: int) -> list[str]:
    parts = [
        f"At most {spaced(budget)} iterations; {len(RATES)} learning rates from {RATES[0]:g} to {RATES[-1]:g}, "
        f"{PER_DECADE} per decade. With random probes: median and range of {REPEATS} runs."
    ]
    for problem in problems():
        if only in problem.name:
            rows = [row(problem, method, budget) for method in METHODS if hasattr(dp, method.make)]
            parts += [f"### {problem.name}", *closed_form(problem), table(rows)]
    return parts


def closed_form(problem: Problem) -> list[str]:
    """What plain gradient descent needs on a quadratic, where that is too long to run."""
    if problem.eigenvalues is None:
        return []
    steps = min(descent_steps(problem.eigenvalues, rate) for rate in RATES)
    return [f"SGD's loss after t steps has a closed form here; at the best of these rates it needs {spaced(steps)}."]


def descent_steps(h: Tensor, rate: float) -> float:
    """The least t with sum_i (1 - rate h_i)^2t / n <= TARGET, by bisection."""
    left = (1 - rate * h) ** 2
    if left.max() >= 1:
        return math.inf
    low, high = 0, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if (left**middle).mean() <= TARGET else (middle, high)
    return high


def table(rows: Sequence[str]) -> str:
    head = "| method | best lr | iterations | range | H v products | gradients + 2 x products |"
    return "\n".join([head, "|:--|--:|--:|--:|--:|--:|", *rows])


def row(problem: Problem, method: Method, budget: int) -> str:
    found = search(problem, method, budget)
    if found.rate is None:
        cells = ["", f"> {spaced(budget)}", f"least loss {found.least:.0e}", "", ""]
    else:
        counts = sorted(measure(problem, method, found.rate, budget))
        middle = median_low(counts)
        between = f"{spaced(counts[0])} to {spaced(counts[-1])}" if method.products else ""
        products = method.products.before(int(middle)) if method.products and middle < math.inf else 0
        cells = [rate_text(found.rate), spaced(middle), between, spaced(products), spaced(middle + 2 * products)]
    say(f"{problem.name}: {method.name}: {', '.join(cells)}")
    return f"| {method.name} | {' | '.join(cells)} |"


def rate_text(rate: float) -> str:
    """With a warning where a better rate may lie outside."""
    return f"{rate:.2g}{' (at the edge)' if rate in (RATES[0], RATES[-1]) else ''}"


def search(problem: Problem, method: Method, budget: int, rates: Sequence[float] = RATES) -> Found:
    """Every rate at once, until more than half of the runs of one of them have arrived."""
    trials = TRIALS if method.products else 1
    rows = torch.tensor(rates, dtype=torch.float64).repeat_interleave(trials)
    w = problem.start.repeat(len(rows), 1)
    generator = torch.Generator().manual_seed(1)
    steps = Steps(recipe_of(method, problem), rows, w)
    arrived = torch.zeros(len(rows), dtype=torch.bool)
    least, last = torch.tensor(math.inf, dtype=torch.float64), 0
    for step in range(budget + 1):
        loss, grad = problem.at(w)
        least = torch.fmin(least, loss.nan_to_num(math.inf).min())
        new = loss <= TARGET
        if new.any():
            arrived |= new
            share = arrived.view(-1, trials).double().mean(1)
            if share.max() > 0.5:
                return Found(rates[int(share.argmax())], step, TARGET)
        if method.products and method.products.due(step, last):
            v = probe(method.products, trials, len(w[0]), generator).repeat(len(rates), 1)
            steps.observe(v, problem.product(w, v))
            last = step
        w = steps.update(w, grad)
    return Found(None, budget, float(least))


def probe(products: Products, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    normal = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return normal if products.distribution == "gaussian" else normal.sign()


def recipe_of(method: Method, problem: Problem) -> dp.Recipe:
    return made(method, [problem.start.clone().requires_grad_()], 1.0).recipe


def made(method: Method, params: list[Tensor], lr: float, **options: Any) -> Any:
    """The optimizer itself."""
    times = method.products.settings() if method.products else {}
    return getattr(dp, method.make)(params, lr=lr, **method.settings, **times, **options)


class Steps:
    """The functional form of a recipe, each row of the weights with its own learning rate and state.

    It is traced once into a plain list of tensor operations, which spares every step the stages' Python.
    """

    def __init__(self, recipe: dp.Recipe, rates: Tensor, w: Tensor) -> None:
        self.state = {key: value.clone() for key, value in torch.func.vmap(lambda row: init(recipe, row))(w).items()}
        self.done = torch.zeros((), dtype=torch.int64)

        def one(lr: Tensor, w: Tensor, g: Tensor, state: Any, step: Tensor) -> Any:
            return update(recipe.with_settings(lr=lr), w, g, state, step)

        def seen(v: Tensor, hv: Tensor, state: Any) -> Any:
            clock = Clock(t=1, lr=1.0)
            return take_in(recipe.lines, Numbers(clock, recipe.scalars(clock)), Observation(v, hv, 1), state)

        every = torch.func.vmap(one, in_dims=(0, 0, 0, 0, None))
        inputs = (w, torch.zeros_like(w), self.state, self.done)  # the gradient a tensor of its own, to be told apart
        self._update = make_fx(lambda w, g, state, step: every(rates, w, g, state, step))(*inputs)
        self._observe = torch.func.vmap(seen)

    def update(self, w: Tensor, grad: Tensor) -> Tensor:
        w, self.state = self._update(w, grad, self.state, self.done)
        self.done += 1
        return w

    def observe(self, v: Tensor, hv: Tensor) -> None:
        self.state = {**self.state, **self._observe(v, hv, self.state)}


def measure(problem: Problem, method: Method, rate: float, budget: int) -> list[float]:
    """Iterations of the class itself: one parameter, of which every row is a run with probes of its own."""
    w = problem.start.repeat(REPEATS if method.products else 1, 1).requires_grad_()

    def products(params: Sequence[Tensor], probes: Sequence[Tensor]) -> list[Tensor]:
        return [problem.product(p.detach(), v) for p, v in zip(params, probes, strict=True)]

    optimizer = made(method, [w], rate, engine="eager", **({"probe": products, "seed": 2} if method.products else {}))
    counts = torch.full((len(w),), math.inf)
    for step in range(budget + 1):
        loss, w.grad = problem.at(w.detach())
        counts[(loss <= TARGET) & counts.isinf()] = step
        if counts.isfinite().all():
            break
        optimizer.step()
    return counts.tolist()


def spaced(number: float) -> str:
    """Digits in groups of three."""
    return f"{int(number):,}".replace(",", " ") if number < math.inf else "never"


def say(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
