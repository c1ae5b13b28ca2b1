"""Command-line options that select the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dashpot.cli.values import integer, parse_pairs
from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from dashpot.tasks import Task

TaskName = Annotated[str | None, Parameter(help="Name of a task (see `dashpot tasks`), or path/to/file.py:function.")]
TaskOption = Annotated[str | None, Parameter(name="--task", help="The task, as an option instead of an argument.")]
BatchSize = Annotated[int | None, Parameter(converter=integer, help="Batch size; defaults to the task's.")]
TaskOptions = Annotated[
    list[str] | None, Parameter(help="Options NAME=VALUE of the task, e.g. shuffle=false.", consume_multiple=True)
]
DataDir = Annotated[Path | None, Parameter(help="First folder to search for data sets.")]


def task_spec(name: str | None, option: str | None) -> str:
    """Return the name of the task, which must be given either as an argument or as an option."""
    if (name is None) == (option is None):
        raise ArgumentError("Give one task, such as digits or --task path/to/file.py:function.")
    return name or option or ""


def task_pairs(options: Sequence[str] | None) -> dict[str, Any]:
    """Parse the `NAME=VALUE` items of `--task-options`; None is an option that is not given."""
    given = {} if options is None else parse_pairs("--task-options", options)
    if "data_dir" in given:
        raise ArgumentError("--task-options must not contain data_dir; use --data-dir.")
    return given


def named_task(
    name: str | None, option: str | None, batch_size: int | None = None, options: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the task, given either as an argument or as an option, and its options as plain data."""
    given = task_pairs(options)
    if batch_size is not None and given.setdefault("batch_size", batch_size) != batch_size:
        raise ArgumentError(
            f"--batch-size must be given once, got {batch_size} and, in --task-options, {given['batch_size']}."
        )
    return {"task": task_spec(name, option), "task_options": given}


def select_task(
    name: str | None,
    option: str | None,
    data_dir: Path | None,
    batch_size: int | None = None,
    options: Sequence[str] | None = None,
) -> Task:
    """Return the task, which must be given either as an argument or as an option, with its options."""
    named = named_task(name, option, batch_size, options)
    from dashpot import tasks

    return tasks.get(named["task"], data_dir=data_dir, **named["task_options"])
