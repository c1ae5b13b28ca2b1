"""References to functions in Python files, such as `path/to/file.py:build`."""

from __future__ import annotations


def is_file_spec(spec: str) -> bool:
    """Return whether `spec` refers to a Python file, as `file.py` or `file.py:function`.

    >>> is_file_spec("my_task.py:build"), is_file_spec("my_task.py"), is_file_spec("digits")
    (True, True, False)
    """
    return split_spec(spec)[0].endswith(".py")


def split_spec(spec: str) -> tuple[str, str]:
    """Split `path/to/file.py:function` into path and function; without a function, the function is `build`."""
    path, separator, function = spec.rpartition(":")
    return (path, function or "build") if separator and path.endswith(".py") else (spec, "build")
