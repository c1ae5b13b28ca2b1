"""Step time relative to a reference, measured by alternating steps in one process, and memory bandwidth."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import NamedTuple

import torch
from cases import Case, Preparing, SupportsStep, moved, parameters
from torch import Tensor

WARM_UP = 3  # untimed steps, in which both sides create state and compile or load kernels
FEWEST, MOST = 9, 2001
EARLY = 50  # last timed step of a fresh optimizer, for cases with `early`


class Ratio(NamedTuple):
    """Medians over the rounds, with the quartiles `low` and `high` of the ratio; times are in seconds."""

    value: float
    low: float
    high: float
    ours: float
    theirs: float
    rounds: int


class Row(NamedTuple):
    """A measured case: the ratio by number of threads, and the bytes moved by a dashpot step, if known."""

    case: Case
    elements: int
    moved: int | None
    ratios: dict[int, Ratio]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(case: Case, shapes: Sequence[tuple[int, ...]], thread_counts: Sequence[int], budget: float) -> Row:
    """Measure both sides on copies of the same parameters, for `budget` seconds per number of threads."""
    ours, theirs = parameters(shapes, case.dtype, 2)
    make_ours, make_theirs = case.ours(ours), case.reference(theirs)
    ratios = {}
    for count in thread_counts:
        with threads(count):
            for stepper in (make_theirs, make_ours):
                for _ in range(WARM_UP):
                    timed(stepper)
            ratios[count] = early(case, shapes, budget) if case.early else rounds(make_theirs, make_ours, budget)
    for stepper, params in ((make_theirs, theirs), (make_ours, ours)):
        check_steps(stepper, params)
    return Row(case, sum(p.numel() for p in ours), moved(make_ours), ratios)


def rounds(reference: SupportsStep, ours: SupportsStep, budget: float) -> Ratio:
    """Alternate steps of both sides for `budget` seconds and compute the ratio of each round."""
    gc.collect()
    table: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while len(table) < FEWEST or (time.perf_counter() < end and len(table) < MOST):
        table.append((timed(reference), timed(ours)))
    return ratio(table)


def early(case: Case, shapes: Sequence[tuple[int, ...]], budget: float) -> Ratio:
    """Alternate steps 2 to `EARLY` of both sides, with fresh optimizers, for `budget` seconds."""
    table: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while not table or time.perf_counter() < end:
        ours, theirs = parameters(shapes, case.dtype, 2)
        sides = case.reference(theirs), case.ours(ours)
        gc.collect()
        table += [(timed(sides[0]), timed(sides[1])) for _ in range(EARLY)][1:]
    return ratio(table)


def ratio(table: Sequence[tuple[float, float]]) -> Ratio:
    """Return the ratio over rounds of (reference, dashpot) seconds."""
    low, middle, high = quantiles([mine / other for other, mine in table], n=4)
    return Ratio(middle, low, high, median(mine for _, mine in table), median(other for other, _ in table), len(table))


def timed(stepper: SupportsStep) -> float:
    """Return the time of a step in seconds, without its preparation."""
    if isinstance(stepper, Preparing):
        stepper.prepare()
    return seconds(stepper.step)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def check_steps(stepper: SupportsStep, params: list[Tensor]) -> None:
    """Raise `RuntimeError` if a further step does not change every tensor that has a gradient."""
    for p in params:
        with torch.no_grad():
            p.fill_(1e-3)  # small enough to change a bfloat16 weight
    before = [p.detach().clone() for p in params]
    timed(stepper)
    pairs = [(p, b) for p, b in zip(params, before, strict=True) if p.grad is not None]
    still = sum(torch.equal(p, b) for p, b in pairs)
    if still or not pairs:
        raise RuntimeError(f"{type(stepper).__name__}: {still} of {len(pairs)} tensors did not move.")


def bandwidths(elements: int = 100_000_000, repeats: int = 9) -> tuple[float, float]:
    """Return the bytes per second read and written by `y.copy_(x)` and `y.add_(x)` on tensors larger than all caches.

    A processor usually reads a cache line before overwriting it, and this read is not counted for a copy. In-place
    updates read the line anyway, so a step can exceed the bandwidth of a copy; `add_` is the fairer comparison.
    """
    x, y = torch.ones(elements), torch.zeros(elements)
    copy = median(seconds(lambda: y.copy_(x)) for _ in range(repeats))
    add = median(seconds(lambda: y.add_(x)) for _ in range(repeats))
    return 2 * x.nbytes / copy, 3 * x.nbytes / add
