"""The command `dashpot reproduce`, which repeats published tables.

To add a table, define a function of the output folder and the given options, and register it in `TABLES`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.compare import SEEDS, Seeds
from dashpot.cli.first_line import print_first_line
from dashpot.cli.study_options import EXECUTION, Out, Threads, check_counts, check_threads
from dashpot.cli.task_options import DataDir
from dashpot.cli.values import integer
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.utils.optional_packages import need


class Table(NamedTuple):
    """A published table.

    Attributes:
        reproduce: Function of the output folder and of the options that are given, as keyword arguments.
        options: Names of the arguments of `reproduce`.
    """

    reproduce: Callable[..., None]
    options: tuple[str, ...]


def _fashion_mnist(
    out: Path,
    *,
    rows: str | None = None,
    seeds: int = SEEDS,
    data_dir: Path | None = None,
    threads: int | None = None,
) -> None:
    print_first_line("Reproducing the table fashion-mnist.")
    from dashpot.comparison.progress import progress_for
    from dashpot.comparison.published import ROWS
    from dashpot.comparison.reproduction import reproduce as reproduce_table

    path = reproduce_table(
        out,
        tuple(ROWS) if rows is None else tuple(rows.split(",")),
        seeds,
        data_dir=data_dir,
        threads=threads,
        progress=lambda: progress_for(sys.stdout),
        command=command_line(),
    )
    print(f"Table: {path}")


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
    need("reproduce", "optuna", "scipy", extra="study")
    print_first_line("Reproducing the table nanogpt.")
    from dashpot.comparison.nanogpt import ROWS, reproduce_nanogpt
    from dashpot.comparison.progress import progress_for

    path = reproduce_nanogpt(
        out,
        tuple(ROWS) if rows is None else tuple(rows.split(",")),
        seeds,
        tier=tier,
        data_dir=data_dir,
        threads=threads,
        jobs=jobs,
        progress=lambda: progress_for(sys.stdout),
        command=command_line(),
    )
    print(f"Table: {path}")


TABLES = {
    "fashion-mnist": Table(_fashion_mnist, ("rows", "seeds", "data_dir", "threads")),
    "nanogpt": Table(_nanogpt, ("rows", "tier", "seeds", "jobs", "threads", "data_dir")),
}
"""Published tables by name."""


def reproduce(
    name: Annotated[str, Parameter(help=f"Published table: {', '.join(TABLES)}.")],
    /,
    *,
    rows: Annotated[
        str | None, Parameter(help="fashion-mnist, nanogpt: comma-separated rows; defaults to all.")
    ] = None,
    tier: Annotated[
        str | None, Parameter(help="nanogpt: smoke (seconds) or cpu (minutes per run). [default: cpu]")
    ] = None,
    seeds: Seeds = None,
    jobs: Annotated[
        int | None, Parameter(converter=integer, help="Number of worker processes. [default: 1]", group=EXECUTION)
    ] = None,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Reproduce a published table with dashpot's optimizers; print both results side by side."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    options = {"rows": rows, "tier": tier, "seeds": seeds, "jobs": jobs, "data_dir": data_dir, "threads": threads}
    given = {option: value for option, value in options.items() if value is not None}
    _check_options(name, given)
    TABLES[name].reproduce(Path("runs") / f"reproduce-{name}" if out is None else out, **given)


def _check_options(name: str, given: dict[str, Any]) -> None:
    """Check that a table has the given options, and the numbers among them."""
    for option in given:
        if option not in TABLES[name].options:
            known = ", ".join(map(_flag, TABLES[name].options))
            raise ArgumentError(f"reproduce: the options of {name} are {known}, got {_flag(option)}.")
    check_counts("reproduce", **{option: given[option] for option in ("seeds", "jobs", "epochs") if option in given})
    check_threads("reproduce", given.get("threads"))


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
