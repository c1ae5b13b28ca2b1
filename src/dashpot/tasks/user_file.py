"""User-defined tasks, created by functions in the user's Python files."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.tasks.task import Problem, Task
from dashpot.utils.file_spec import split_spec


def load_task(spec: str, *, data_dir: str | os.PathLike[str] | None = None, **options: Any) -> Task:
    """Return the task created by a function in a Python file.

    Every call executes the file as a new module. No bytecode is written, and the folder of the file is not added to the
    import path.

    Args:
        spec: `path/to/file.py:function`. Without `:function`, the function is `build`.
        data_dir: Data folder, passed to the function if it has a parameter with this name.
        options: Keyword arguments of the function.

    Raises:
        ArgumentError: If the file or the function is missing or raises an error, or if the function does not return a
            `Task`.
    """
    name, function = split_spec(spec)
    path = Path(name).expanduser()
    module = _execute(path)
    build = getattr(module, function, None)
    if not callable(build):
        raise ArgumentError(f"Task file {path} has no `{function}`; define `def {function}() -> dashpot.tasks.Task`.")

    known = inspect.signature(build).parameters
    if not any(item.kind is item.VAR_KEYWORD for item in known.values()):
        for option in options:
            if option not in known:
                raise ArgumentError(f"Task file {path}: {function}() has no parameter {option!r} for this task option.")

    def call() -> Any:
        has_data_dir = "data_dir" in known
        return build(**options, **({"data_dir": data_dir} if has_data_dir else {}))

    task = _wrap_errors(path, f"{function}()", call)
    if not isinstance(task, Task):
        raise ArgumentError(f"Task file {path}: {function}() must return a dashpot.tasks.Task, got {shown(task)}.")
    config = {**task.config, "file_sha256": _digest(path)}
    return dataclasses.replace(task, build=_checked_build(path, task.build), config=config)


def load_object(spec: str) -> Any:
    """Return the object given by `path/to/file.py:name`; the file is executed as in `load_task`.

    Raises:
        ArgumentError: If the file cannot be read, raises an error, or does not define `name`.
    """
    return load_from_file(spec).value


@dataclass(frozen=True)
class FileObject:
    """Object in a Python file, with the module of the file and the checksum of its contents."""

    value: Any
    module: ModuleType
    sha256: str


def load_from_file(spec: str, kind: str = "Task file") -> FileObject:
    """Return the object given by `path/to/file.py:name`, with its module and the checksum of the file.

    Args:
        spec: Path and name.
        kind: Kind of the file in error messages.

    Raises:
        ArgumentError: If the file cannot be read, raises an error, or does not define `name`.
    """
    file, separator, name = spec.rpartition(":")
    if not separator or not file.endswith(".py") or not name:
        raise ArgumentError(f"Objects in Python files must be given as path/to/file.py:name, got {shown(spec)}.")
    path = Path(file).expanduser()
    module = _execute(path, kind)
    if not hasattr(module, name):
        raise ArgumentError(f"The file {path} has no `{name}`.")
    return FileObject(getattr(module, name), module, _digest(path))


def _checked_build(path: Path, build: Callable[[int], Problem]) -> Callable[[int], Problem]:
    """Wrap `build` to convert its exceptions and check its result."""

    def checked(seed: int) -> Problem:
        problem = _wrap_errors(path, "Task.build", lambda: build(seed))
        if not isinstance(problem, Problem):
            raise ArgumentError(
                f"Task file {path}: Task.build must return a dashpot.tasks.Problem, got {shown(problem)}."
            )
        return problem

    return checked


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _execute(path: Path, kind: str = "Task file") -> ModuleType:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ArgumentError(f"{kind} {path} cannot be read: {error.strerror or error}.") from error
    # The digest distinguishes files with the same name. dataclasses and pickle require the module in sys.modules.
    module = ModuleType(f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        _wrap_errors(path, "the file", lambda: exec(compile(source, str(path), "exec"), module.__dict__), kind)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _wrap_errors(path: Path, label: str, run: Callable[[], Any], kind: str = "Task file") -> Any:
    """Call `run` and return its result; convert exceptions and SystemExit to an ArgumentError with the line number."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename == str(path):
            line = error.lineno
        else:
            frames = traceback.extract_tb(error.__traceback__)
            line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        where = f" at line {line}" if line else ""
        reason = f"{type(error).__name__}: {getattr(error, 'msg', error)}".partition("\n")[0].rstrip(".: ")
        raise ArgumentError(f"{kind} {path}: {label} raised{where} {reason}.") from error
