"""The task of a command, named by position or by option."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot import tasks
from dashpot.errors import ArgumentError

__all__ = ["DataDir", "TaskName", "TaskOption", "chosen_task"]

TaskName = Annotated[str | None, Parameter(help="Name of a task (see `dashpot tasks`), or path/to/file.py:function.")]
TaskOption = Annotated[str | None, Parameter(name="--task", help="The same as an option.")]
DataDir = Annotated[Path | None, Parameter(help="Folder to look for data sets in first.")]


def chosen_task(name: str | None, option: str | None, data_dir: Path | None) -> tasks.Task:
    """The task that was named in exactly one of the two ways."""
    if (name is None) == (option is None):
        raise ArgumentError("Name one task, such as digits, or give --task path/to/file.py:function.")
    return tasks.get(name or option or "", data_dir=data_dir)
