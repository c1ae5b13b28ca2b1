"""Iterations until a loss of 1e-8 on small hard problems, each method at its best, as Markdown tables.

    python benchmarks/convergence.py                           # everything, about ten minutes
    python benchmarks/convergence.py --only Rosenbrock         # problems whose name holds a text
    python benchmarks/convergence.py --quick                   # at most 2000 iterations: a look, no result
    python benchmarks/convergence.py --write docs/results.md   # also replace the tables there

All learning rates of a method run side by side through the functional form, mapped over by `torch.func.vmap`, until one
of them has arrived: that is the best. A method with random probes has several runs for each rate, which all have to
arrive (where no rate gets so far, most of them). Momentum is chosen in the same way, from three values. Then the
method's own class repeats the best pair with other probes: these are the figures of the table. Everything is in float64
on one thread, and no gradient has noise.
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
from page import Place
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import dashpot as dp
from dashpot.curvature import Probing, probes
from dashpot.functional import init, observe, update

PLACE = Place("<!-- tables of benchmarks/convergence.py -->", "<!-- end of tables of benchmarks/convergence.py -->")
START = time.monotonic()

TARGET = 1e-8
BUDGET = 50_000
PER_DECADE, LOWEST, HIGHEST = 8, -5, 3
RATES = [10 ** (LOWEST + i / PER_DECADE) for i in range((HIGHEST - LOWEST) * PER_DECADE + 1)]
POLES = (0.998, 0.99, 0.9)  # the first is the best for a quadratic of this condition
TRIALS = 3  # runs for each rate of a method with random probes, while the best one is looked for
REPEATS = 15  # runs at the best one, with other probes
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
    """A class, its settings but for the learning rate as a function of the pole, and what poles are tried.

    A second-order one says when it takes products, and of what; 1 and 1 is at every step.
    """

    name: str
    make: str
    settings: Callable[[float], dict[str, Any]]
    poles: Sequence[float] = POLES
    probing: Probing | None = None


def betas(second: float, **others: Any) -> Callable[[float], dict[str, Any]]:
    return lambda pole: {"betas": (pole, second), **others}


SOMETIMES = Probing(update_d_every=10, d_warmup=20)
METHODS = [
    Method("SGD", "SGD", lambda pole: {"momentum": pole}, (0.0,)),
    Method("NAG", "NAG", lambda pole: {"pole": pole}),
    Method("AdamW", "AdamW", betas(0.999, weight_decay=0.0)),
    Method("ESGD, version 1", "ESGD", betas(0.999, version=1), probing=SOMETIMES),
    Method("ESGD, version 2", "ESGD", betas(0.999, version=2), probing=SOMETIMES),
    Method("AdaHessian", "AdaHessian", betas(0.999), probing=Probing(1, 1)),
    Method("Sophia", "Sophia", betas(0.99, weight_decay=0.0), (*POLES[:2], 0.96), Probing(10, 1, "auto", "gaussian")),
]


class Found(NamedTuple):
    """The rate at which the most runs arrived, how many of them, after how many iterations the last of these, and the
    least loss that any run of any rate came to."""

    rate: float
    arrived: int
    iterations: int
    least: float
    pole: float

    def better(self, other: Found) -> bool:
        return (-self.arrived, self.iterations, self.least) < (-other.arrived, other.iterations, other.least)


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
    normal = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.linalg.qr(normal).Q if rotated else torch.eye(DIMENSION, dtype=torch.float64)
    hessian, start = (q * h) @ q.T, q @ (2 / DIMENSION / h).sqrt()

    def product(w: Tensor, v: Tensor) -> Tensor:
        del w
        return v @ hessian

    def at(w: Tensor) -> tuple[Tensor, Tensor]:
        grad = product(w, w)
        return (w * grad).sum(1) / 2, grad

    return Problem(f"Quadratic of condition 1e6, {'rotated' if rotated else 'diagonal'}", start, at, product, h)


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    PLACE.check(options.write)
    torch.set_num_threads(1)
    report = "\n\n".join(sections(options.only, 2000 if options.quick else BUDGET))
    print(report)
    PLACE.write(options.write, report)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Iterations until a loss of 1e-8, as Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="at most 2000 iterations: a look, no result")
    parser.add_argument("--only", default="", metavar="TEXT", help="problems whose name holds TEXT")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also replace the tables in FILE")
    return parser.parse_args(arguments)


def problems() -> list[Problem]:
    return [rosenbrock(2), rosenbrock(10), quadratic(rotated=False), quadratic(rotated=True)]


def sections(only: str, budget: int) -> list[str]:
    parts = [about(budget)]
    for problem in problems():
        if only in problem.name:
            rows = [row(problem, method, budget) for method in METHODS]
            parts += [f"### {problem.name}", *closed_form(problem), table(rows)]
    return parts


def about(budget: int) -> str:
    return (
        f"At most {spaced(budget)} iterations; {len(RATES)} learning rates from {RATES[0]:g} to {RATES[-1]:g}, "
        f"{PER_DECADE} per decade. With random probes: median and range of {REPEATS} runs. torch {torch.__version__}."
    )


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
    head = "| method | momentum | best lr | iterations | range | H v products | gradients + 2 x products |"
    return "\n".join([head, "|:--|--:|--:|--:|--:|--:|--:|", *rows])


def row(problem: Problem, method: Method, budget: int) -> str:
    found, trials = best(problem, method, budget), runs_of(method)
    if 2 * found.arrived <= trials:
        why = f"{found.arrived} of {trials} runs arrived" if found.arrived else f"least loss {found.least:.0e}"
        cells = ["", "", counted(math.inf, budget), why, "", ""]
    else:
        runs = sorted(measure(problem, method, found.pole, found.rate, budget))
        iterations, products = median_low(runs)
        between = f"{counted(runs[0][0], budget)} to {counted(runs[-1][0], budget)}" if len(runs) > 1 else ""
        costs = [spaced(products), spaced(iterations + 2 * products)] if iterations < math.inf else ["", ""]
        cells = [f"{found.pole:g}", rate_text(found.rate), counted(iterations, budget), between, *costs]
    say(f"{problem.name}: {method.name}: {', '.join(cells)}")
    return f"| {method.name} | {' | '.join(cells)} |"


def counted(iterations: float, budget: int) -> str:
    return spaced(iterations) if iterations < math.inf else f"> {spaced(budget)}"


def rate_text(rate: float) -> str:
    """With a warning where a better rate may lie outside."""
    return f"{rate:.2g}{' (at the edge)' if rate in (RATES[0], RATES[-1]) else ''}"


def best(problem: Problem, method: Method, budget: int) -> Found:
    """Over all poles; once all runs of one have arrived, the others have to be quicker."""
    chosen, limit = None, budget
    for pole in method.poles:
        found = search(problem, method, pole, limit)
        if chosen is None or found.better(chosen):
            chosen = found
        if found.arrived == runs_of(method):
            limit = min(limit, found.iterations)
    assert chosen is not None
    return chosen


def search(problem: Problem, method: Method, pole: float, budget: int) -> Found:
    """Every rate at once, until all runs of one of them have arrived."""
    trials = runs_of(method)
    rates = torch.tensor(RATES, dtype=torch.float64).repeat_interleave(trials)
    w = problem.start.repeat(len(rates), 1)
    steps = Steps(made(method, pole, 1.0, [problem.start.clone().requires_grad_()]).recipe, rates, w)
    arrival = torch.full((len(rates),), math.inf, dtype=torch.float64)
    least, last, number = torch.tensor(math.inf, dtype=torch.float64), None, 0
    for step in range(budget + 1):
        loss, grad = problem.at(w)
        if step % 100 == 0:
            least = torch.fmin(least, loss.nan_to_num(math.inf).min())
        here = loss <= TARGET
        if here.any():
            arrival[here & arrival.isinf()] = step
            if arrival.view(-1, trials).isfinite().all(1).any():
                break
        if method.probing and method.probing.due(step, last):
            (v,) = probes(method.probing.distribution, 1, number, [w[:trials]], [0])
            v = v.repeat(len(RATES), 1)
            steps.observe(v, problem.product(w, v))
            last, number = step, number + 1
        w = steps.update(w, grad)
    return at_best_rate(arrival.view(-1, trials), float(least), pole)


def at_best_rate(arrival: Tensor, least: float, pole: float) -> Found:
    """Of the rates (rows) at which the most runs arrived, the one where the last of these was the first to do so."""
    each = zip(RATES, arrival.isfinite().sum(1).tolist(), arrival.nan_to_num(posinf=-1).amax(1).tolist(), strict=True)
    rate, arrived, last = min(each, key=lambda one: (-one[1], one[2]))
    return Found(rate, arrived, int(last), least, pole)


def runs_of(method: Method) -> int:
    """At each rate, in the search."""
    return TRIALS if method.probing else 1


def made(method: Method, pole: float, lr: float, params: list[Tensor], **options: Any) -> Any:
    """The optimizer itself."""
    if method.probing:
        options |= {name: getattr(method.probing, name) for name in ("update_d_every", "d_warmup", "distribution")}
    return getattr(dp, method.make)(params, lr=lr, **method.settings(pole), **options)


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
            return observe(recipe, state, v, hv, 0)  # which step it is tells these methods nothing

        every = torch.func.vmap(one, in_dims=(0, 0, 0, 0, None))
        other = torch.zeros_like(w)  # tracing takes one tensor that is given twice for one input
        self._update = make_fx(lambda *args: every(rates, *args))(w, other, self.state, self.done)
        self._observe = make_fx(torch.func.vmap(seen))(w, other, self.state) if recipe.observes() else None

    def update(self, w: Tensor, grad: Tensor) -> Tensor:
        w, self.state = self._update(w, grad, self.state, self.done)
        self.done += 1
        return w

    def observe(self, v: Tensor, hv: Tensor) -> None:
        assert self._observe is not None
        self.state = self._observe(v, hv, self.state)


def measure(problem: Problem, method: Method, pole: float, rate: float, budget: int) -> list[tuple[float, float]]:
    """(iterations, products) of the class itself: one parameter, every row of which is a run with its own probes."""
    w = problem.start.repeat(REPEATS if method.probing else 1, 1).requires_grad_()
    taken = 0

    def products(params: Sequence[Tensor], probes: Sequence[Tensor]) -> list[Tensor]:
        nonlocal taken
        taken += 1  # a run that has blown up must not spoil the others: products that are not finite are dropped whole
        return [problem.product(p.detach(), v).nan_to_num() for p, v in zip(params, probes, strict=True)]

    options = {"probe": products, "seed": 2} if method.probing else {}
    optimizer = made(method, pole, rate, [w], engine="eager", **options)
    found: list[tuple[float, float]] = [(math.inf, math.inf)] * len(w)
    for step in range(budget + 1):
        loss, w.grad = problem.at(w.detach())
        if (here := loss <= TARGET).any():
            found = [(step, taken) if now and old[0] == math.inf else old for now, old in zip(here, found, strict=True)]
            if all(math.isfinite(iterations) for iterations, _ in found):
                break
        optimizer.step()
    return found


def spaced(number: float) -> str:
    """Digits in groups of three."""
    return f"{int(number):,}".replace(",", " ")


def say(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
