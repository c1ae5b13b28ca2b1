"""The command `dashpot reproduce`, which repeats published tables.

To add a table, define a function of the output folder and the given options, and register it in `TABLES`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.compare import SEEDS, Seeds
from dashpot.cli.first_line import print_first_line
from dashpot.cli.study_command import execute_study
from dashpot.cli.study_options import EXECUTION, Out, Threads, check_counts, check_threads
from dashpot.cli.task_options import DataDir, task_pairs
from dashpot.cli.values import integer
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.runs.workload_names import (
    WORKLOADS,
    check_tier,
    parse_names,
    parse_numerators,
    parse_workloads,
    parse_zeros,
)
from dashpot.utils.optional_packages import need


def _fashion_mnist(
    out: Path,
    *,
    rows: str | None = None,
    seeds: int = SEEDS,
    data_dir: Path | None = None,
    threads: int | None = None,
) -> None:
    chosen = _chosen_rows(rows)
    print_first_line("Reproducing the table fashion-mnist.")
    from dashpot.comparison.published import ROWS
    from dashpot.comparison.reproduction import reproduce as reproduce_table

    _write_table(reproduce_table, out, chosen or tuple(ROWS), seeds, data_dir=data_dir, threads=threads)


def _nanogpt(
    out: Path,
    *,
    rows: str | None = None,
    tier: str = "cpu",
    seeds: int = SEEDS,
    jobs: int = 1,
    threads: int | None = None,
    data_dir: Path | None = None,
) -> None:
    chosen = _chosen_rows(rows)
    need("reproduce", "optuna", "scipy", extra="study")
    print_first_line("Reproducing the table nanogpt.")
    from dashpot.comparison.nanogpt import ROWS, reproduce_nanogpt

    settings = {"tier": tier, "data_dir": data_dir, "threads": threads, "jobs": jobs}
    _write_table(reproduce_nanogpt, out, chosen or tuple(ROWS), seeds, **settings)


def _chosen_rows(rows: str | None) -> tuple[str, ...]:
    """Return the rows of `--rows`; none if it is not given."""
    return () if rows is None else parse_names("--rows", rows)


def _write_table(
    reproduce_table: Callable[..., Path], out: Path, rows: tuple[str, ...], seeds: int, **settings: Any
) -> None:
    from dashpot.comparison.progress import progress_for

    progress = partial(progress_for, sys.stdout)
    path = reproduce_table(out, rows, seeds, progress=progress, command=command_line(), **settings)
    print(f"Table: {path}")


def _autosgm(
    out: Path,
    *,
    workload: str | None = None,
    tier: str = "cpu",
    zeros: str | None = None,
    numerators: str = "0,1",
    seeds: int | None = None,
    task_options: list[str] | None = None,
    jobs: int = 1,
    threads: int | None = None,
    data_dir: Path | None = None,
    yes: bool = False,
    source: Path | None = None,
) -> None:
    names = None if workload is None else parse_workloads(workload)
    check_tier(tier)
    chosen, kinds = None if zeros is None else parse_zeros(zeros), parse_numerators(numerators)
    options = task_pairs(task_options)
    need("reproduce", "scipy", "optuna", extra="study")
    need("The page of reproduce", "matplotlib", "jinja2", extra="plot")
    data = "all workloads" if names is None else ", ".join(names)
    print_first_line(f"Reading {source}." if source else f"Reproducing the table autosgm: {data}, tier {tier}.")
    from dashpot.comparison.zero_run import GridRequest, reproduce_autosgm, write_summary

    if source is not None:
        print(f"Page: {write_summary(source, out, command=command_line())}")
        return
    page = reproduce_autosgm(
        out,
        GridRequest(names, tier, chosen, kinds, seeds, options, data_dir, threads, jobs),
        execute=partial(execute_study, jobs=jobs),
        yes=yes,
        ask=_question(),
        command=command_line(),
    )
    print(f"Page: {page}")


def _question() -> Callable[[str], bool] | None:
    """Return a function that confirms a question on the terminal; None without one."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return None
    return lambda text: input(text).strip().lower() in ("y", "yes")


TABLES: dict[str, Callable[..., None]] = {"fashion-mnist": _fashion_mnist, "autosgm": _autosgm, "nanogpt": _nanogpt}
"""Functions by published table, of the output folder and, as keyword arguments, the options that are given."""


def reproduce(
    name: Annotated[str, Parameter(help=f"Published table: {', '.join(TABLES)}.")],
    /,
    *,
    rows: Annotated[
        str | None, Parameter(help="fashion-mnist, nanogpt: comma-separated rows; defaults to all.")
    ] = None,
    workload: Annotated[
        str | None,
        Parameter(help=f"autosgm: comma-separated workloads of {', '.join(WORKLOADS)}; defaults to all with data."),
    ] = None,
    tier: Annotated[
        str | None,
        Parameter(
            help="autosgm, nanogpt: smoke (seconds), cpu (minutes per run), autosgm: gpu (published). [default: cpu]"
        ),
    ] = None,
    zeros: Annotated[
        str | None, Parameter(help="autosgm: comma-separated zeros, none without a filter; defaults to the tier's.")
    ] = None,
    numerators: Annotated[str | None, Parameter(help="autosgm: comma-separated numerators. [default: 0,1]")] = None,
    source: Annotated[
        Path | None,
        Parameter(name="--from", help="autosgm: results.jsonl from which tables and page are written, without runs."),
    ] = None,
    seeds: Seeds = None,
    jobs: Annotated[
        int | None, Parameter(converter=integer, help="Number of worker processes. [default: 1]", group=EXECUTION)
    ] = None,
    threads: Threads = None,
    yes: Annotated[bool, Parameter(help="Start without a question if it takes hours.", group=EXECUTION)] = False,
    out: Out = None,
    data_dir: DataDir = None,
    task_options: Annotated[
        list[str] | None,
        Parameter(
            help="autosgm: options NAME=VALUE of the tasks that have them, e.g. checksum=false.", consume_multiple=True
        ),
    ] = None,
) -> None:
    """Reproduce a published table with dashpot's optimizers; print the results, and write them to a folder."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    options = {
        **{"rows": rows, "workload": workload, "tier": tier, "zeros": zeros, "numerators": numerators},
        **{"source": source, "seeds": seeds, "jobs": jobs, "threads": threads, "data_dir": data_dir},
        **{"task_options": task_options, "yes": yes or None},
    }
    given = {option: value for option, value in options.items() if value is not None}
    _check_options(name, given)
    TABLES[name](Path("runs") / f"reproduce-{name}" if out is None else out, **given)


def _check_options(name: str, given: dict[str, Any]) -> None:
    """Check that a table has the given options, and the numbers among them."""
    _, *options = signature(TABLES[name]).parameters
    for option in given:
        if option not in options:
            known = ", ".join(map(_flag, options))
            raise ArgumentError(f"reproduce: the options of {name} are {known}, got {_flag(option)}.")
        if "source" in given and option != "source":
            raise ArgumentError(f"reproduce: --from starts no runs and allows only --out, got {_flag(option)}.")
    check_counts("reproduce", **{option: given[option] for option in ("seeds", "jobs") if option in given})
    check_threads("reproduce", given.get("threads"))


def _flag(option: str) -> str:
    return "--from" if option == "source" else f"--{option.replace('_', '-')}"
