"""Measure step time relative to torch, memory of a step, and time of the first step, and print Markdown tables.

    python benchmarks/step.py                               # all tables, about five minutes
    python benchmarks/step.py --quick                       # the same rows with a tenth of the rounds
    python benchmarks/step.py --only AutoSGM                # only steps of cases whose name contains the text
    python benchmarks/step.py --avx2                        # only compute-bound rows, without AVX-512
    python benchmarks/step.py --write docs/performance.md   # also update the tables in the file

In each round, torch takes one step and then dashpot takes one, on separate copies of the same parameters. A row reports
the median ratio of the two times over the rounds. Only `optimizer.step()` is timed; caches are not cleared after the
step of the other side, and garbage collection counts for the side during whose step it runs. Initial steps (state,
kernels, compilers) are not timed. On processors with AVX-512, a full run includes `--avx2` in a separate process. Tests
do not run these measurements.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import first_step
import memory
import processor
import table
import torch
from background_load import BackgroundLoad
from cases import LARGE, NARROW, OTHERS, SHAPES, TARGETS, Case
from page import Section
from timing import Row, bandwidths, measure, threads

from dashpot.runs.environment import machine

START = time.monotonic()
SECTION = Section("<!-- tables of benchmarks/step.py -->", "<!-- end of tables -->")


TARGET_BUDGET, BUDGET = 2.5, 1.0
"""Seconds of measurement per row and number of threads, for rows with and without a target."""


def main(arguments: Sequence[str]) -> None:
    options = parsed(arguments)
    SECTION.check(options.write)
    os.environ.setdefault("DASHPOT_ENGINE", "compiled")  # inherited by child processes
    if options.avx2 and not processor.avx2_only():
        load = BackgroundLoad()
        parts = [without_avx512(arguments), load.warning()]
        print("\n\n".join(filter(None, parts)))
        return
    report = "\n\n".join(sections(options))
    print(report)
    SECTION.write(options.write, report)


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times and memory of optimizer steps, as Markdown tables.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds; not for publication")
    parser.add_argument("--threads", type=int, help="number of threads; default: both two and one")
    parser.add_argument("--only", default="", metavar="TEXT", help="only steps of cases whose name contains TEXT")
    parser.add_argument("--avx2", action="store_true", help="only steps of AdamW and bfloat16, without AVX-512")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also update the tables in FILE")
    options = parser.parse_args(arguments)
    if options.write and (options.avx2 or options.only):
        parser.error("--write records all tables; it cannot be combined with --avx2 or --only.")
    return options


def sections(options: argparse.Namespace) -> list[str]:
    """Measure all parts of the report, in order."""
    load = BackgroundLoad()
    counts = [options.threads] if options.threads else sorted({min(2, os.cpu_count() or 1), 1}, reverse=True)
    rates = all_bandwidths(counts)
    share = 0.1 if options.quick else 1.0
    targets, others = (
        measured([c for c in cases if options.only in c.title() and (c in NARROW or not options.avx2)], counts, seconds)
        for cases, seconds in ((TARGETS, TARGET_BUDGET * share), (OTHERS, BUDGET * share))
    )
    ends = [] if options.only or options.avx2 else slow_ends(options)
    again = all_bandwidths(counts)
    rates = {count: max(rates[count], again[count]) for count in counts}  # disturbances only lower the bandwidth
    warning = None if options.avx2 else load.warning()  # the parent process would count as load
    parts = [about(rates, quick=options.quick), *filter(None, [warning])]
    for count in counts:
        title = f"### {counted(count)}{', AVX2 only' if options.avx2 else ''}"
        for rows, note, judged in ((targets, "", True), (others, ", without a target", False)):
            if rows:
                parts += [title + note, processor.stamp(), table.steps(rows, count, *rates[count], targets=judged)]
    return [*parts, *ends]


def without_avx512(arguments: Sequence[str]) -> str:
    """Return the report of a new process without AVX-512; torch selects its instructions at start-up."""
    with tempfile.TemporaryDirectory(prefix="dashpot-bench-") as cache:
        Path(cache).chmod(0o700)
        command = [sys.executable, __file__, *arguments]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=processor.narrowed(cache))
    return run.stdout.strip()


def all_bandwidths(counts: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Return the bandwidths of a copy and of an in-place addition by number of threads."""
    found = {}
    for count in counts:
        with threads(count):
            found[count] = bandwidths()
    return found


def measured(cases: Sequence[Case], counts: Sequence[int], budget: float) -> list[Row]:
    rows = []
    for case in cases:
        say(case.title() if case.installed() else f"{case.package} is not installed; skipping its row")
        if case.installed():
            rows.append(measure(case, SHAPES[case.tensors], counts, budget))
    return rows


def slow_ends(options: argparse.Namespace) -> list[str]:
    """Measure in new processes: memory, first steps, and rows without AVX-512."""
    parts = ["### Memory, and first steps on 1 thread", processor.stamp()]
    if memory.measured():
        say("memory")
        parts.append(table.memories({name: memory.extra(name) for name in memory.SUBJECTS}))
    else:
        parts.append("Extra memory: not measured; requires Linux with glibc.")
    say("first steps")
    firsts = {name: first_step.first(name, quick=options.quick) for name in first_step.SUBJECTS}
    parts.append(table.firsts(firsts))
    if processor.instructions() == "AVX-512":
        say("without AVX-512")
        quick, threads = ["--quick"] * options.quick, ["--threads", f"{options.threads}"] * bool(options.threads)
        parts.append(without_avx512(["--avx2", *quick, *threads]))
    return parts


def about(rates: dict[int, tuple[float, float]], *, quick: bool) -> str:
    """Return a description of machine, versions and tensors."""
    facts = machine()
    speeds = ", ".join(f"{c / 1e9:.1f} and {a / 1e9:.1f} with {counted(n)}" for n, (c, a) in rates.items())
    sizes = "; ".join(f"{name}: {sum(map(math.prod, shapes))}" for name, shapes in SHAPES.items() if name != LARGE)
    return (
        f"{processor.stamp()[:-1]}; {facts['cores']} cores, {facts['system']}; torch {torch.__version__}, "
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
