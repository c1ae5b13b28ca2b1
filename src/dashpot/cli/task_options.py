"""Command-line options that select the task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dashpot.errors import ArgumentError

if TYPE_CHECKING:
    from dashpot.tasks import Task

TaskName = Annotated[str | None, Parameter(help="Name of a task (see `dashpot tasks`), or path/to/file.py:function.")]
TaskOption = Annotated[str | None, Parameter(name="--task", help="The task, as an option instead of an argument.")]
DataDir = Annotated[Path | None, Parameter(help="First folder to search for data sets.")]


def task_spec(name: str | None, option: str | None) -> str:
    """Return the name of the task, which must be given either as an argument or as an option."""
    if (name is None) == (option is None):
        raise ArgumentError("Give one task, such as digits or --task path/to/file.py:function.")
    return name or option or ""


def select_task(name: str | None, option: str | None, data_dir: Path | None) -> Task:
    """Return the task, which must be given either as an argument or as an option."""
    from dashpot import tasks

    return tasks.get(task_spec(name, option), data_dir=data_dir)
