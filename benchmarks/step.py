"""Time of one optimizer step in units of torch's, memory of a step and time of the first one, as Markdown tables.

    python benchmarks/step.py                               # everything, about four minutes
    python benchmarks/step.py --quick                       # the same rows, a tenth of the rounds
    python benchmarks/step.py --only AutoSGM                # rows whose name holds a text; steps only
    python benchmarks/step.py --write docs/performance.md   # also replace the tables there

In each round torch takes one step, then ours takes one, on separate copies of the same parameters; a row tells the
median over the rounds of the ratio of the two times. Only `optimizer.step()` is timed, the caches being as the other
side left them. What either side does the first times (state, kernels, compilers) is outside. Nothing here is part of
the tests.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import first_step
import memory
import table
import torch
from bystanders import Bystanders
from cases import LARGE, MANY, NETWORK, OTHERS, SHAPES, TARGETS, Case
from page import Place
from timing import Row, bandwidths, measure, threads

from dashpot.comparison.environment import machine

START = time.monotonic()
PLACE = Place("<!-- tables of benchmarks/step.py -->", "<!-- end of tables -->")


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    PLACE.check(options.write)
    os.environ.setdefault("DASHPOT_ENGINE", "compiled")  # for the children as well
    report = "\n\n".join(sections(options.only, options.threads, quick=options.quick))
    print(report)
    PLACE.write(options.write, report)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times and memory of optimizer steps, as Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds: a look, no result")
    parser.add_argument("--threads", type=int, help="with this many alone, instead of two and one")
    parser.add_argument("--only", default="", metavar="TEXT", help="steps only, of cases whose name holds TEXT")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also replace the tables in FILE")
    return parser.parse_args(arguments)


def sections(only: str, only_threads: int | None, *, quick: bool) -> list[str]:
    """All that is printed, measured in the order of the page."""
    bystanders = Bystanders()
    counts = [only_threads] if only_threads else sorted({min(2, os.cpu_count() or 1), 1}, reverse=True)
    rates = all_bandwidths(counts)
    share = 0.1 if quick else 1.0
    targets = measured([c for c in TARGETS if only in c.name], counts, 3.0 * share)
    others = measured([c for c in OTHERS if only in c.title()], counts, 1.5 * share)
    ends = [] if only else slow_ends(counts[0])
    again = all_bandwidths(counts)
    rates = {count: max(rates[count], again[count]) for count in counts}  # whatever disturbs makes it less
    parts = [about(rates, quick=quick), *filter(None, [bystanders.warning()])]
    for count in counts:
        title = counted(count)
        parts += [f"### {title}", table.steps(targets, count, *rates[count], targets=True)]
        parts += [f"### {title}, without a target", table.steps(others, count, *rates[count], targets=False)]
    return [*parts, *ends]


def all_bandwidths(counts: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Of a copy and of an addition in place, for each number of threads."""
    found = {}
    for count in counts:
        with threads(count):
            found[count] = bandwidths()
    return found


def measured(cases: Sequence[Case], counts: Sequence[int], budget: float) -> list[Row]:
    rows = []
    for case in cases:
        say(case.title() if case.installed() else f"{case.package} is not installed: no row")
        if case.installed():
            rows.append(measure(case, SHAPES[case.tensors], counts, budget))
    return rows


def slow_ends(count: int) -> list[str]:
    """What takes a process each: memory and first steps."""
    parts = ["### Memory and first step"]
    if memory.measured():
        say("memory")
        parts.append(table.memories({name: memory.extra(name) for name in memory.SUBJECTS}))
    else:
        parts.append("Extra memory: not measured, which needs Linux with glibc.")
    say("first steps")
    parts.append(table.firsts({name: first_step.first(name, count) for name in first_step.SUBJECTS}))
    return parts


def about(rates: dict[int, tuple[float, float]], *, quick: bool) -> str:
    """The machine and what is compared."""
    facts = machine()
    speeds = ", ".join(f"{c / 1e9:.1f} and {a / 1e9:.1f} with {counted(n)}" for n, (c, a) in rates.items())
    sizes = "; ".join(f"{name}: {sum(map(math.prod, SHAPES[name]))}" for name in (MANY, NETWORK))
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['system']}; torch {torch.__version__}, "
        f"Python {platform.python_version()}; engine={os.environ['DASHPOT_ENGINE']!r}"
        f"{'; --quick: few rounds' if quick else ''}.\n"
        f"GB/s read and written by `y.copy_(x)` and by `y.add_(x)` on 400 MB each: {speeds}.\n"
        f"Tensors: {LARGE}, unless a row says otherwise ({sizes} elements)."
    )


def counted(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"


def say(text: str) -> None:
    print(f"{time.monotonic() - START:6.0f} s  {text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
