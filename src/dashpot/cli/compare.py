"""The commands `dashpot compare`, `report`, `demo` and `reproduce`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.first_line import print_first_line
from dashpot.cli.task_options import BatchSize, DataDir, TaskName, TaskOption, TaskOptions, select_task, task_spec
from dashpot.cli.values import integer, parse_pairs
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.runs.method_specs import MethodSpec, parse_methods
from dashpot.utils.format import counted

if TYPE_CHECKING:
    from dashpot.runs.entries import Entry
    from dashpot.runs.study import Study

TABLES = ("fashion-mnist",)
"""Published tables that `dashpot reproduce` reproduces."""

Epochs = Annotated[int | None, Parameter(converter=integer, help="Epochs of every run; defaults to the task's.")]
Schedule = Annotated[
    str | None, Parameter(help="Schedule over the whole run, e.g. cosine or 1cycle (see `dashpot schedules`).")
]
Threads = Annotated[int | None, Parameter(converter=integer, help="Number of torch threads.")]
Out = Annotated[
    Path | None, Parameter(help="Folder of records and report; rerun the command to resume an interrupted comparison.")
]
Seeds = Annotated[
    int, Parameter(converter=integer, help="Number of seeds; all runs of a seed share weights and batches.")
]


def compare(
    name: TaskName = None,
    /,
    *,
    task: TaskOption = None,
    methods: Annotated[
        str | None,
        Parameter(
            help="Comma-separated methods, each with optional settings, e.g. sgd,adamw:weight_decay=0.1; "
            "defaults to a standard list."
        ),
    ] = None,
    seeds: Seeds = 3,
    epochs: Epochs = None,
    lr: Annotated[
        list[str] | None, Parameter(help="Learning rates METHOD=VALUE, repeatable.", consume_multiple=True)
    ] = None,
    set: Annotated[
        list[str] | None,
        Parameter(help="Optimizer arguments NAME=VALUE of all methods, e.g. weight_decay=5e-4.", consume_multiple=True),
    ] = None,
    schedule: Schedule = None,
    batch_size: BatchSize = None,
    task_options: TaskOptions = None,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Train several methods on one task over several seeds; write records, a summary and a report."""
    specs = None if methods is None else parse_methods(methods)
    common = {} if set is None else parse_pairs("--set", set)
    print_first_line(f"Comparing {methods or 'the standard methods'} on {task_spec(name, task)}.")
    from dashpot.comparison import DEFAULT_METHODS, Study

    chosen = select_task(name, task, data_dir, batch_size, task_options)
    specs = tuple(map(MethodSpec, DEFAULT_METHODS)) if specs is None else specs
    rates = _rates(lr or [], specs)
    entries = tuple(_entry(spec, chosen.name, common, rates, schedule) for spec in specs)
    if seeds < 1:
        raise ArgumentError(f"compare: --seeds must be an integer in [1, inf), got {seeds}.")
    study = Study(chosen, entries, tuple(range(seeds)), chosen.epochs if epochs is None else epochs, threads)
    _compare(study, out or Path("runs") / f"compare-{_file_name(chosen.name)}")


def report(folder: Path, /) -> None:
    """Regenerate the report of a comparison from its records."""
    print_first_line(f"Reading {folder}.")
    from dashpot.comparison import write_report

    print(f"Report: {write_report(folder)}")


def demo(*, out: Out = None, data_dir: DataDir = None) -> None:
    """Compare the standard methods on real data, within minutes."""
    print_first_line("Looking for Fashion-MNIST (downloads 30 MB if it is not on this machine) ...")
    from dashpot.comparison.demo import demo_study

    study, reason = demo_study(data_dir)
    print(reason)
    _compare(study, out or Path("demo") / study.task.name)


def reproduce(
    name: Annotated[str, Parameter(help=f"Published table: {', '.join(TABLES)}.")],
    /,
    *,
    rows: Annotated[str | None, Parameter(help="Comma-separated rows of the table; defaults to all.")] = None,
    seeds: Seeds = 3,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Reproduce a published table with dashpot's optimizers; print both results side by side."""
    if name not in TABLES:
        raise unknown("table", name, TABLES)
    print_first_line(f"Reproducing the table {name}.")
    from dashpot.comparison.progress import progress_for
    from dashpot.comparison.published import ROWS
    from dashpot.comparison.reproduction import reproduce as reproduce_table

    path = reproduce_table(
        out or Path("runs") / "reproduce-fashion-mnist",
        tuple(ROWS) if rows is None else tuple(rows.split(",")),
        seeds,
        data_dir=data_dir,
        threads=threads,
        progress=lambda: progress_for(sys.stdout),
        command=command_line(),
    )
    print(f"Table: {path}")


def _compare(study: Study, out: Path) -> None:
    """Run a study, print its summary and write its report."""
    from dashpot.comparison import run_study, summarise, write_report
    from dashpot.comparison.progress import progress_for

    methods, seeds = len(study.entries), len(study.seeds)
    print(
        f"Comparing {counted(methods, 'method')} on {study.task.name}: {counted(study.epochs, 'epoch')}, "
        f"{counted(seeds, 'seed')}, {counted(methods * seeds, 'run')}, written to {out}.",
        flush=True,
    )
    runs = run_study(study, out, progress=progress_for(sys.stdout), command=command_line())
    print(f"\n{summarise(runs).text()}\n", flush=True)
    print(f"Report: {write_report(out)}")


def _entry(
    spec: MethodSpec, task: str, common: Mapping[str, Any], rates: Mapping[str, float], schedule: str | None
) -> Entry:
    """Return the entry of a method, named by its settings."""
    from dashpot.comparison import entry

    own, named = spec.options.get("lr"), rates.get(spec.name, rates.get(spec.method))
    if own is not None and named is not None:
        raise ArgumentError(f"{spec.method}: lr must be given once, got {own} in --methods and {named} in --lr.")
    options = {**common, **{name: value for name, value in spec.options.items() if name != "lr"}}
    rate = own if named is None else named
    made = entry(spec.method, task, lr=rate, schedule=schedule, options=options)
    return dataclasses.replace(made, name=spec.name)


def _rates(items: Sequence[str], specs: Sequence[MethodSpec]) -> dict[str, float]:
    """Parse `METHOD=VALUE` items; each METHOD must be the method or the name of an entry."""
    known = {name for spec in specs for name in (spec.method, spec.name)}
    rates = {}
    for item in items:
        method, _, value = item.partition("=")
        try:
            rates[method] = float(value)
        except ValueError as error:
            raise ArgumentError(f"--lr must be METHOD=VALUE with a number, got {item!r}.") from error
        if method not in known:
            raise unknown("method in --lr", method, known)
    return rates


def _file_name(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in task)
