"""Registry of built-in tasks by name."""

from __future__ import annotations

import inspect
import os
from typing import Any

from dashpot.constraints import shown, unknown
from dashpot.errors import ArgumentError
from dashpot.names import TASKS, load
from dashpot.tasks.task import Task
from dashpot.tasks.user_file import load_task
from dashpot.utils.file_spec import is_file_spec


def names() -> tuple[str, ...]:
    """Return the names of the built-in tasks.

    >>> names()
    ('digits', 'fashion-mnist', 'fashion-mnist-resnet', 'cifar10', ...)
    """
    return tuple(TASKS)


def get(spec: str, *, data_dir: str | os.PathLike[str] | None = None, **options: Any) -> Task:
    """Load the data of a task and return the task.

    Args:
        spec: One of `names()`, or `path/to/file.py:function` for a function that takes the options and returns a
            `Task`. Without `:function`, the function is `build`.
        data_dir: Data folder to search first; ignored by tasks without data.
        options: Options of the task; see `dashpot.tasks.digits.task`, `dashpot.tasks.fashion_mnist.task`,
            `dashpot.tasks.fashion_mnist_resnet.task`, `dashpot.tasks.cifar10.task`, and the functions of
            `dashpot.tasks.synthetic`.

    Raises:
        ArgumentError: If the name or an option is unknown, an option is out of range, or the file does not define a
            task.
        DataError: If the data set is damaged, or is not found and cannot be downloaded.

    >>> task = get("quadratic", condition=10.0)
    >>> task.name, task.target
    ('quadratic', Target(metric='loss', value=0.001, direction='min'))
    """
    if not isinstance(spec, str):
        raise ArgumentError(f"get: spec must be a string, got {shown(spec)}.")
    if is_file_spec(spec):
        return load_task(spec, data_dir=data_dir, **options)
    if spec not in TASKS:
        raise unknown("task", spec, TASKS)
    factory = load(TASKS[spec])
    known = inspect.signature(factory).parameters
    for name in options:
        if name not in known:
            raise unknown(f"option of the task {spec}", name, known)
    if "data_dir" in known:
        options["data_dir"] = data_dir
    return factory(**options)
