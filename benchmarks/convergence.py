"""Count iterations to a loss of 1e-8 on small hard problems, with the best settings of each method.

    python benchmarks/convergence.py                           # all tables, about ten minutes
    python benchmarks/convergence.py --only Rosenbrock         # only problems whose name contains the text
    python benchmarks/convergence.py --quick                   # at most 2000 iterations; not for publication
    python benchmarks/convergence.py --write docs/results.md   # also update the tables in the file

The results are Markdown tables. All learning rates of a method run in parallel, through the functional form and
`torch.func.vmap`, until one of them reaches the target; this is the best rate. A method with random probes has several
runs per rate, and all of them must reach the target (or most of them, if no rate achieves this). The momentum is
selected in the same way from three values. The optimizer class then repeats the runs with the best rate and momentum
and with different probes; the tables report these runs. All computations use float64 on one thread, without gradient
noise.
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
from page import Section
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import dashpot as dp
from dashpot.curvature import Probing, draw_probes
from dashpot.functional import init, observe, update

SECTION = Section("<!-- tables of benchmarks/convergence.py -->", "<!-- end of tables of benchmarks/convergence.py -->")
START = time.monotonic()

TARGET = 1e-8
BUDGET = 50_000
PER_DECADE, LOWEST, HIGHEST = 8, -5, 3
RATES = [10 ** (LOWEST + i / PER_DECADE) for i in range((HIGHEST - LOWEST) * PER_DECADE + 1)]
POLES = (0.998, 0.99, 0.9)  # the first is optimal for a quadratic with this condition number
TRIALS = 3  # runs per rate of a method with random probes, during the search
REPEATS = 15  # runs at the best rate, with different probes
DIMENSION, CONDITION = 20, 1e6


class Problem(NamedTuple):
    """A function with minimum 0, evaluated at many points, which are the rows of a matrix.

    Args:
        at: Function that returns values of shape (rows,) and gradients of shape (rows, n).
        product: Function that multiplies the Hessian at each row with the same row of a second matrix.
        eigenvalues: Eigenvalues of the Hessian if it is constant, else None.
    """

    name: str
    start: Tensor
    at: Callable[[Tensor], tuple[Tensor, Tensor]]
    product: Callable[[Tensor, Tensor], Tensor]
    eigenvalues: Tensor | None = None


class Method(NamedTuple):
    """An optimizer class, a function from the pole to its settings other than the learning rate, and candidate poles.

    For a second-order method, `probing` sets the intervals between products; `Probing(1, 1)` means one in every step.
    """

    name: str
    make: str
    settings: Callable[[float], dict[str, Any]]
    poles: Sequence[float] = POLES
    probing: Probing | None = None


def betas(second: float, **others: Any) -> Callable[[float], dict[str, Any]]:
    return lambda pole: {"betas": (pole, second), **others}


EVERY_TENTH_STEP = Probing(update_d_every=10, d_warmup=20)
METHODS = [
    Method("SGD", "SGD", lambda pole: {"momentum": pole}, (0.0,)),
    Method("NAG", "NAG", lambda pole: {"pole": pole}),
    Method("AdamW", "AdamW", betas(0.999, weight_decay=0.0)),
    Method("ESGD, version 1", "ESGD", betas(0.999, version=1), probing=EVERY_TENTH_STEP),
    Method("ESGD, version 2", "ESGD", betas(0.999, version=2), probing=EVERY_TENTH_STEP),
    Method("AdaHessian", "AdaHessian", betas(0.999), probing=Probing(1, 1)),
    Method("Sophia", "Sophia", betas(0.99, weight_decay=0.0), (*POLES[:2], 0.96), Probing(10, 1, "auto", "gaussian")),
]


class Found(NamedTuple):
    """The best rate, the number of its runs that reached the target, the iterations of the slowest of them, and the
    lowest loss of any run at any rate."""

    rate: float
    arrived: int
    iterations: int
    least: float
    pole: float

    def better(self, other: Found) -> bool:
        return (-self.arrived, self.iterations, self.least) < (-other.arrived, other.iterations, other.least)


def rosenbrock(dimension: int) -> Problem:
    """sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 from (-1.2, 1, -1.2, 1, ...), with minimum at (1, ..., 1)."""

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
    """w' H w / 2 with eigenvalues from 1e-3 to 1e3, evenly spaced on a logarithmic scale, along the axes or rotated.

    The initial loss is 1, with equal contributions of all eigenvectors.
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
    SECTION.check(options.write)
    torch.set_num_threads(1)
    report = "\n\n".join(sections(options.only, 2000 if options.quick else BUDGET))
    print(report)
    SECTION.write(options.write, report)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Iterations until a loss of 1e-8, as Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="at most 2000 iterations; not for publication")
    parser.add_argument("--only", default="", metavar="TEXT", help="only problems whose name contains TEXT")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also update the tables in FILE")
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
    """Return the iterations of plain gradient descent on a quadratic, which would take too long to run."""
    if problem.eigenvalues is None:
        return []
    steps = min(descent_steps(problem.eigenvalues, rate) for rate in RATES)
    return [f"SGD's loss after t steps has a closed form here; at the best of these rates it needs {spaced(steps)}."]


def descent_steps(h: Tensor, rate: float) -> float:
    """Return the least t with sum_i (1 - rate h_i)^2t / n <= TARGET, by bisection."""
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
    """Return the rate as text, with a mark if it is at the edge of the grid."""
    return f"{rate:.2g}{' (at the edge)' if rate in (RATES[0], RATES[-1]) else ''}"


def best(problem: Problem, method: Method, budget: int) -> Found:
    """Return the best rate over all poles; the iterations needed with one pole limit the search with the next ones."""
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
    """Run all rates in parallel until all runs of one of them reach the target."""
    trials = runs_of(method)
    rates = torch.tensor(RATES, dtype=torch.float64).repeat_interleave(trials)
    w = problem.start.repeat(len(rates), 1)
    steps = Steps(build(method, pole, 1.0, [problem.start.clone().requires_grad_()]).recipe, rates, w)
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
            (v,) = draw_probes(method.probing.distribution, 1, number, [w[:trials]], [0])
            v = v.repeat(len(RATES), 1)
            steps.observe(v, problem.product(w, v))
            last, number = step, number + 1
        w = steps.update(w, grad)
    return at_best_rate(arrival.view(-1, trials), float(least), pole)


def at_best_rate(arrival: Tensor, least: float, pole: float) -> Found:
    """Return the rate (row) with the most successful runs; in a tie, the rate whose slowest run was fastest."""
    each = zip(RATES, arrival.isfinite().sum(1).tolist(), arrival.nan_to_num(posinf=-1).amax(1).tolist(), strict=True)
    rate, arrived, last = min(each, key=lambda one: (-one[1], one[2]))
    return Found(rate, arrived, int(last), least, pole)


def runs_of(method: Method) -> int:
    """Return the number of runs per rate in the search."""
    return TRIALS if method.probing else 1


def build(method: Method, pole: float, lr: float, params: list[Tensor], **options: Any) -> Any:
    """Create the optimizer."""
    if method.probing:
        options |= {name: getattr(method.probing, name) for name in ("update_d_every", "d_warmup", "distribution")}
    return getattr(dp, method.make)(params, lr=lr, **method.settings(pole), **options)


class Steps:
    """The functional form of a recipe, with a separate learning rate and state for each row of the weights.

    The step is traced once into a list of tensor operations, which avoids the Python overhead of stages.
    """

    def __init__(self, recipe: dp.Recipe, rates: Tensor, w: Tensor) -> None:
        self.state = {key: value.clone() for key, value in torch.func.vmap(lambda row: init(recipe, row))(w).items()}
        self.done = torch.zeros((), dtype=torch.int64)

        def one(lr: Tensor, w: Tensor, g: Tensor, state: Any, step: Tensor) -> Any:
            return update(recipe.with_settings(lr=lr), w, g, state, step)

        def seen(v: Tensor, hv: Tensor, state: Any) -> Any:
            return observe(recipe, state, v, hv, 0)  # these methods do not depend on the step

        every = torch.func.vmap(one, in_dims=(0, 0, 0, 0, None))
        other = torch.zeros_like(w)  # if one tensor were passed twice, it would be traced as one input
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
    """Return (iterations, products) of runs of the class, which are rows of one parameter with their own probes."""
    w = problem.start.repeat(REPEATS if method.probing else 1, 1).requires_grad_()
    taken = 0

    def products(params: Sequence[Tensor], probes: Sequence[Tensor]) -> list[Tensor]:
        nonlocal taken
        taken += 1  # a diverged run must not affect the others: non-finite products are dropped
        return [problem.product(p.detach(), v).nan_to_num() for p, v in zip(params, probes, strict=True)]

    options = {"probe": products, "seed": 2} if method.probing else {}
    optimizer = build(method, pole, rate, [w], engine="eager", **options)
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
    """Return a number with its digits in groups of three."""
    return f"{int(number):,}".replace(",", " ")


def say(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
