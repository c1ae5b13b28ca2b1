"""The command line: each command reads its options and calls one function of the library."""

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
from dashpot.cli.task_options import DataDir, TaskName, TaskOption, chosen_task
from dashpot.cli.train import lr_find, train, typed_command, whole
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

__all__ = ["run"]

app = App(
    name="dashpot",
    help="Stochastic-gradient methods for PyTorch: train, compare, verify, report.",
    help_epilogue="Any command takes --debug: an error then shows where it came from.\n\n"
    "Exit codes: 0 done, 2 a mistake, 3 a run of train has diverged, 4 one of its\n"
    "processes has died, 5 verify has found a disagreement, 130 stopped by Ctrl-C\n"
    "(143 SIGTERM, 129 SIGHUP).",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)

DEBUG = "--debug"


Epochs = Annotated[
    int | None, Parameter(converter=whole, help="Epochs of every run; the task's own number by default.")
]
Schedule = Annotated[str | None, Parameter(help="Learning-rate schedule over the whole run, e.g. cosine or 1cycle.")]
Threads = Annotated[int | None, Parameter(converter=whole, help="Threads torch computes with.")]
Out = Annotated[
    Path | None, Parameter(help="Folder for records and report; an interrupted comparison continues there.")
]
Seeds = Annotated[
    int, Parameter(converter=whole, help="Number of seeds; seed k gives every method the same weights and batches.")
]


@app.command
def compare(
    name: TaskName = None,
    /,
    *,
    task: TaskOption = None,
    methods: Annotated[str | None, Parameter(help="Methods, separated by commas; a standard list by default.")] = None,
    seeds: Seeds = 3,
    epochs: Epochs = None,
    lr: Annotated[list[str] | None, Parameter(help="METHOD=VALUE, any number of times.", consume_multiple=True)] = None,
    schedule: Schedule = None,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Train a list of methods on one task, over several seeds, and write records, a summary and a report."""
    chosen = chosen_task(name, task, data_dir)
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
    """Write the report of a comparison again, from its records only."""
    print(f"Report: {write_report(folder)}")


@app.command
def demo(*, out: Out = None, data_dir: DataDir = None) -> None:
    """Compare the standard methods on real data in a few minutes."""
    from dashpot.comparison.demo import demo_study

    print("Looking for Fashion-MNIST; a download of 30 MB where it is not on this machine ...", flush=True)
    study, reason = demo_study(data_dir)
    print(reason)
    _compare(study, out or Path("demo") / study.task.name)


@app.command
def reproduce(
    name: Annotated[str, Parameter(help="What to repeat: fashion-mnist.")],
    /,
    *,
    rows: Annotated[str | None, Parameter(help="Rows of the table, separated by commas; all by default.")] = None,
    seeds: Seeds = 3,
    out: Out = None,
    data_dir: DataDir = None,
    threads: Threads = None,
) -> None:
    """Repeat a published table with dashpot's optimizers and print both side by side."""
    from dashpot.comparison.published import ROWS
    from dashpot.comparison.reproduction import reproduce as repeat

    if name != "fashion-mnist":
        raise unknown("table", name, ["fashion-mnist"])
    path = repeat(
        out or Path("runs") / "reproduce-fashion-mnist",
        tuple(ROWS) if rows is None else tuple(rows.split(",")),
        seeds,
        data_dir=data_dir,
        threads=threads,
        progress=lambda: progress_for(sys.stdout),
        command=typed_command(),
    )
    print(f"Table: {path}")


@app.command(name="methods")
def list_methods() -> None:
    """List the methods."""
    _list({name: registry.get(name).__doc__ for name in registry.METHODS})
    variants = [name for name in known_entries() if name not in registry.METHODS]
    print(f"Variants: {', '.join(variants)} (AutoSGM with that learning-rate numerator).")


@app.command(name="tasks")
def list_tasks() -> None:
    """List the tasks that come with dashpot."""
    print("\n".join(tasks.names()))
    print("path/to/file.py:function  a task of your own: a function that returns a dashpot.tasks.Task")


@app.command(name="schedules")
def list_schedules() -> None:
    """List the names that --schedule takes."""
    print("\n".join(RATE_SCHEDULES))


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; every message about the caller's mistake is one sentence."""
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
        # Whoever read the output has enough, as `head` does; what is on the disk is kept.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"\n{str(stop) or 'Stopped.'}", file=sys.stderr)
        return stop.code if isinstance(stop, Interrupted) else 130
    return code if isinstance(code, int) else 0


def _sentence(error: CycloptsError) -> str:
    """What was wrong with an option, on one line; the parser itself would draw a box of the terminal's width."""
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "...")) else f"{text}."


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings as the sentences they are, without the line of code they come from."""
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
        f"{methods * seeds} runs, kept in {out}.",
        flush=True,
    )
    runs = run_study(study, out, progress=progress_for(sys.stdout), command=typed_command())
    print(f"\n{summarise(runs).text()}\n", flush=True)
    print(f"Report: {write_report(out)}")


def _rates(items: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """`METHOD=VALUE` items as a mapping; the methods must be among those compared."""
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
