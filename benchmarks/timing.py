"""Time of one step as a ratio, both sides in one process and in turns; and the bandwidth of a copy."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median, quantiles
from typing import NamedTuple

import torch
from cases import Case, Preparing, Stepper, moved, parameters
from torch import Tensor

WARM_UP = 3  # steps outside the timing: state, kernels, compilers of either side
FEWEST, MOST = 9, 2001
EARLY = 50  # the last step of a fresh optimizer that is timed where a case asks for the early ones


class Ratio(NamedTuple):
    """Medians over the rounds; `low` and `high` are the quartiles of the ratio, times in seconds."""

    value: float
    low: float
    high: float
    ours: float
    theirs: float
    rounds: int


class Row(NamedTuple):
    """A case as measured: a ratio for each number of threads, and the bytes a step of ours moves, where known."""

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
    """Both sides of a case on separate copies of the same parameters, `budget` seconds for each number of threads."""
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


def rounds(reference: Stepper, ours: Stepper, budget: float) -> Ratio:
    """One step of each in turn until `budget` seconds are over; the ratio is taken in each round."""
    gc.collect()
    table: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while len(table) < FEWEST or (time.perf_counter() < end and len(table) < MOST):
        table.append((timed(reference), timed(ours)))
    return ratio(table)


def early(case: Case, shapes: Sequence[tuple[int, ...]], budget: float) -> Ratio:
    """Steps 2 to `EARLY` of both sides in turn, again and again with fresh optimizers until `budget` is over."""
    table: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while not table or time.perf_counter() < end:
        ours, theirs = parameters(shapes, case.dtype, 2)
        sides = case.reference(theirs), case.ours(ours)
        gc.collect()
        table += [(timed(sides[0]), timed(sides[1])) for _ in range(EARLY)][1:]
    return ratio(table)


def ratio(table: Sequence[tuple[float, float]]) -> Ratio:
    """Of rounds, each with their seconds and ours."""
    low, middle, high = quantiles([mine / other for other, mine in table], n=4)
    return Ratio(middle, low, high, median(mine for _, mine in table), median(other for other, _ in table), len(table))


def timed(stepper: Stepper) -> float:
    """Seconds of a step, without what the stepper prepares for it."""
    if isinstance(stepper, Preparing):
        stepper.prepare()
    return seconds(stepper.step)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def check_steps(stepper: Stepper, params: list[Tensor]) -> None:
    """A last step must move every weight tensor that has a gradient: a step that does nothing is fast."""
    for p in params:
        with torch.no_grad():
            p.fill_(1e-3)  # small enough that a bfloat16 weight moves too
    before = [p.detach().clone() for p in params]
    timed(stepper)
    pairs = [(p, b) for p, b in zip(params, before, strict=True) if p.grad is not None]
    still = sum(torch.equal(p, b) for p, b in pairs)
    if still or not pairs:
        raise RuntimeError(f"{type(stepper).__name__}: {still} of {len(pairs)} tensors did not move.")


def bandwidths(elements: int = 100_000_000, repeats: int = 9) -> tuple[float, float]:
    """Bytes a second, all that is read and written, of `y.copy_(x)` and `y.add_(x)` on tensors far above the caches.

    Before a processor overwrites a line of memory it mostly reads it, which no one counts in a copy. What is changed in
    place has been read anyway, so steps can exceed the figure of a copy; that of `add_` is the fairer one.
    """
    x, y = torch.ones(elements), torch.zeros(elements)
    copy = median(seconds(lambda: y.copy_(x)) for _ in range(repeats))
    add = median(seconds(lambda: y.add_(x)) for _ in range(repeats))
    return 2 * x.nbytes / copy, 3 * x.nbytes / add
