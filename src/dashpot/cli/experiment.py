"""The command `dashpot experiment`, which tests statements of the source documents."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.listings import print_table
from dashpot.cli.values import integer
from dashpot.errors import ArgumentError
from dashpot.names import EXPERIMENTS
from dashpot.runs.files import check_writable


def experiment(
    name: Annotated[str | None, Parameter(help="Name of the experiment; see --list.")] = None,
    /,
    *,
    list: Annotated[bool, Parameter(help="List the experiments.")] = False,
    seeds: Annotated[int, Parameter(converter=integer, help="Number of seeds, at least 2.")] = 5,
    seed: Annotated[int, Parameter(converter=integer, help="First seed.")] = 0,
    out: Annotated[Path | None, Parameter(help="HTML file of the page; defaults to runs/experiment-NAME.html.")] = None,
    json: Annotated[
        bool, Parameter(help="Print the result as a line of JSON; the page is written only with --out.")
    ] = False,
) -> None:
    """Test a statement of a source document; print the measurements and the verdict, and write a page with figures."""
    if list:
        print_table({name: row.summary for name, row in EXPERIMENTS.items()})
        return
    if name is None:
        raise ArgumentError(f"experiment: name is missing; give one of {', '.join(EXPERIMENTS)}.")
    from dashpot.experiments.runner import check_arguments

    check_arguments("experiment", name, seeds, seed)
    path = Path("runs") / f"experiment-{name}.html" if out is None and not json else out
    if path is not None:
        check_writable(path)
        if path.suffix.lower() != ".html":
            raise ArgumentError(f"experiment: --out must end in .html, got {path}.")
    if not json:  # the output is a single line of JSON
        print_first_line(f"Running the experiment {name} with seeds {seed} to {seed + seeds - 1}.")
    from dashpot.experiments import run, write_page
    from dashpot.experiments.page import command_of
    from dashpot.runs.environment import machine, versions
    from dashpot.utils.format import duration
    from dashpot.utils.strict_json import encode

    start, line = time.perf_counter(), None if json else _progress_line()
    outcome = run(name, seeds=seeds, seed=seed, progress=line)
    if line is not None:
        line("")
    command = command_of(outcome)
    if json:
        print(encode({"command": command, **outcome.to_dict(), "versions": versions(), "machine": machine()}))
    else:
        print(f"\n{outcome}\n\nTime: {duration(time.perf_counter() - start)}", flush=True)
    if path is not None:
        write_page(outcome, path, command=command)
        if not json:
            print(f"Page: {path}")


def _progress_line() -> Callable[[str], None] | None:
    """Return a function that replaces the last line of the terminal; None if standard error is not a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
