"""Commands of the command line. Each command parses its options and calls one function of the library."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from dashpot import tasks
from dashpot.cli.task_options import DataDir, TaskName, TaskOption, select_task
from dashpot.cli.train import command_line, integer, lr_find, train
from dashpot.cli.verify import verify
from dashpot.comparison import (
    DEFAULT_METHODS,
    Interrupted,
    Study,
    entry,
    known_entries,
    run_study,
    summarise,
    write_report,
)
from dashpot.comparison.progress import progress_for
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError, DashpotError
from dashpot.optimizers import registry
from dashpot.runs.entries import RATE_SCHEDULES

app = App(
    name="dashpot",
    help="Stochastic-gradient methods for PyTorch: train, compare, verify, report.",
    help_epilogue="With --debug, every command prints the traceback of an error.\n\n"
    "Exit codes: 0 success, 2 error, 3 training diverged, 4 a training process\n"
    "died, 5 verify found a deviation, 130 stopped by Ctrl-C (143 SIGTERM,\n"
    "129 SIGHUP).",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)

DEBUG = "--debug"


Epochs = Annotated[int | None, Parameter(converter=integer, help="Epochs of every run; defaults to the task's.")]
Schedule = Annotated[str | None, Parameter(help="Learning-rate schedule over the whole run, e.g. cosine or 1cycle.")]
Threads = Annotated[int | None, Parameter(converter=integer, help="Number of torch threads.")]
Out = Annotated[
    Path | None, Parameter(help="Folder of records and report; rerun the command to resume an interrupted comparison.")
]
Seeds = Annotated[
    int, Parameter(converter=integer, help="Number of seeds; all runs of a seed share weights and batches.")
]


@app.command
def compare(
    name: TaskName = None,
    /,
    *,
    task: TaskOption = None,
    methods: Annotated[str | None, Parameter(help="Comma-separated methods; defaults to a standard list.")] = None,
    seeds: Seeds = 3,
    epochs: Epochs = None,
    lr: Annotated[
        list[str] | None, Parameter(help="Learning rates METHOD=VALUE, repeatable.", consume_multiple=True)
    ] = None,
    schedule: Schedule = None,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Train several methods on one task over several seeds; write records, a summary and a report."""
    chosen = select_task(name, task, data_dir)
    names = list(DEFAULT_METHODS) if methods is None else methods.split(",")
    rates = _rates(lr or [], names)
    entries = tuple(entry(method, chosen.name, lr=rates.get(method), schedule=schedule) for method in names)
    if seeds < 1:
        raise ArgumentError(f"compare: --seeds must be an integer in [1, inf), got {seeds}.")
    study = Study(chosen, entries, tuple(range(seeds)), chosen.epochs if epochs is None else epochs, threads)
    _compare(study, out or Path("runs") / f"compare-{_file_name(chosen.name)}")


app.command(train)
app.command(lr_find, name="lr-find")
app.command(verify)


@app.command
def report(folder: Path, /) -> None:
    """Regenerate the report of a comparison from its records."""
    print(f"Report: {write_report(folder)}")


@app.command
def demo(*, out: Out = None, data_dir: DataDir = None) -> None:
    """Compare the standard methods on real data, within minutes."""
    from dashpot.comparison.demo import demo_study

    print("Looking for Fashion-MNIST (downloads 30 MB if it is not on this machine) ...", flush=True)
    study, reason = demo_study(data_dir)
    print(reason)
    _compare(study, out or Path("demo") / study.task.name)


@app.command
def reproduce(
    name: Annotated[str, Parameter(help="Published table: fashion-mnist.")],
    /,
    *,
    rows: Annotated[str | None, Parameter(help="Comma-separated rows of the table; defaults to all.")] = None,
    seeds: Seeds = 3,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Reproduce a published table with dashpot's optimizers; print both results side by side."""
    from dashpot.comparison.published import ROWS
    from dashpot.comparison.reproduction import reproduce as reproduce_table

    if name != "fashion-mnist":
        raise unknown("table", name, ["fashion-mnist"])
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


@app.command(name="methods")
def list_methods() -> None:
    """List the methods."""
    _list({name: registry.get(name).__doc__ for name in registry.METHODS})
    variants = [name for name in known_entries() if name not in registry.METHODS]
    print(f"Variants: {', '.join(variants)} (AutoSGM with this learning-rate numerator).")


@app.command(name="tasks")
def list_tasks() -> None:
    """List the tasks of dashpot."""
    print("\n".join(tasks.names()))
    print("path/to/file.py:function  a user-defined task: a function that returns a dashpot.tasks.Task")


@app.command(name="schedules")
def list_schedules() -> None:
    """List the names for --schedule."""
    print("\n".join(RATE_SCHEDULES))


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code; user errors are printed without a traceback."""
    debug = DEBUG in argv
    try:
        with _plain_warnings():
            words = [word for word in argv if word != DEBUG]
            code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(_sentence(error), file=sys.stderr)
        return 2
    except DashpotError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The process that reads the output, such as `head`, has exited; files on disk are complete.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"\n{str(stop) or 'Stopped.'}", file=sys.stderr)
        return stop.code if isinstance(stop, Interrupted) else 130
    return code if isinstance(code, int) else 0


def _sentence(error: CycloptsError) -> str:
    """Format a parser error on one line; cyclopts would print it in a box as wide as the terminal."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "...")) else f"{text}."


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings inside the block as plain sentences, without the source line."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"Note: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _compare(study: Study, out: Path) -> None:
    """Run a study, print its summary and write its report."""
    methods, seeds = len(study.entries), len(study.seeds)
    print(
        f"Comparing {methods} methods on {study.task.name}: {study.epochs} epochs, {seeds} seeds, "
        f"{methods * seeds} runs, written to {out}.",
        flush=True,
    )
    runs = run_study(study, out, progress=progress_for(sys.stdout), command=command_line())
    print(f"\n{summarise(runs).text()}\n", flush=True)
    print(f"Report: {write_report(out)}")


def _rates(items: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Parse `METHOD=VALUE` items; each METHOD must be in `names`."""
    rates = {}
    for item in items:
        method, _, value = item.partition("=")
        try:
            rates[method] = float(value)
        except ValueError as error:
            raise ArgumentError(f"--lr must be METHOD=VALUE with a number, got {item!r}.") from error
        if method not in names:
            raise unknown("method in --lr", method, names)
    return rates


def _file_name(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in task)


def _list(descriptions: Mapping[str, str | None]) -> None:
    width = max(map(len, descriptions))
    for name, text in descriptions.items():
        print(f"{name:<{width}}  {(text or '').strip().splitlines()[0]}")
