"""Names of methods: those of dashpot, classes of torch.optim, and optimizers in Python files; none loads torch."""

from __future__ import annotations

import re
from pathlib import Path

from dashpot.constraints import unknown
from dashpot.errors import ArgumentError
from dashpot.names import known_methods

TORCH = "torch.optim."
_TORCH_NAME = re.compile(r"torch\.optim\.[A-Za-z_]\w*")
_FILE_NAME = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_FILE_PART = re.compile(r"(?P<method>(?:[A-Za-z]:)?[^:=]+?\.py(?::[^:=]*)?)(:(?P<settings>.*))?")


def is_torch_name(method: str) -> bool:
    """Return whether a method is given as a class of torch.optim.

    >>> is_torch_name("torch.optim.RAdam"), is_torch_name("adam")
    (True, False)
    """
    return _TORCH_NAME.fullmatch(method) is not None


def is_file_name(method: str) -> bool:
    """Return whether a method is given as `path/to/file.py:NAME`.

    >>> is_file_name("mine/own.py:Lion"), is_file_name("own.py")
    (True, False)
    """
    return _FILE_NAME.fullmatch(method) is not None


def is_foreign(method: str) -> bool:
    """Return whether a method is an optimizer of torch or of a file, in contrast to those of dashpot."""
    return is_torch_name(method) or is_file_name(method)


def split_method(text: str) -> tuple[str, str | None]:
    """Split `METHOD:NAME=VALUE` into the method and its first setting, which is None if there is none.

    >>> split_method("own.py:Lion:lr=0.1"), split_method("own.py:Lion"), split_method("sgd:lr=0.1")
    (('own.py:Lion', 'lr=0.1'), ('own.py:Lion', None), ('sgd', 'lr=0.1'))
    """
    if found := _FILE_PART.fullmatch(text):
        return found["method"], found["settings"]
    method, colon, setting = text.partition(":")
    return method, setting if colon else None


def is_method(method: str) -> bool:
    """Return whether a method exists or, for optimizers of torch and of files, has the form of a name."""
    return method in known_methods() or is_foreign(method)


def unknown_method(method: str) -> ArgumentError:
    """Return the error for a name that `is_method` rejects.

    >>> print(unknown_method("own.py"))
    own.py: an optimizer in a file must be given as own.py:NAME, where NAME is a class or a function.
    >>> print(unknown_method("timm.optim.Lamb"))
    Unknown method 'timm.optim.Lamb': optimizers outside of torch.optim must be given as path/to/file.py:NAME, such as
    own.py:Lamb for a file own.py with the line `from timm.optim import Lamb`.
    """
    file = method.rpartition(".py")[0] + ".py"
    if method.endswith(".py") or ".py:" in method:
        return ArgumentError(
            f"{method}: an optimizer in a file must be given as {file}:NAME, where NAME is a class or a function."
        )
    package, dot, name = method.rpartition(".")
    if dot and all(part.isidentifier() for part in method.split(".")):
        return ArgumentError(
            f"Unknown method {method!r}: optimizers outside of torch.optim must be given as path/to/file.py:NAME, such "
            f"as own.py:{name} for a file own.py with the line `from {package} import {name}`."
        )
    return unknown("method", method, [*known_methods(), f"{TORCH}NAME", "path/to/file.py:NAME"])


def entry_name(method: str) -> str:
    """Return the name of an entry without settings, in the characters of file names.

    >>> [entry_name(method) for method in ("adamw", "torch.optim.RAdam", "mine/own rules.py:Lion")]
    ['adamw', 'torch-RAdam', 'own_rules.Lion']
    """
    if is_torch_name(method):
        return f"torch-{method.removeprefix(TORCH)}"
    found = _FILE_NAME.fullmatch(method)
    if found is None:
        return method
    stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in Path(found["file"]).stem)
    return f"{stem}.{found['name']}"


def absolute_method(text: str) -> str:
    """Make the path in a method absolute, so that worker processes in any folder find the file.

    >>> absolute_method("adamw"), absolute_method("/mine/own.py:Lion")
    ('adamw', '/mine/own.py:Lion')
    """
    found = _FILE_NAME.fullmatch(text)
    return text if found is None else f"{Path(found['file']).expanduser().resolve()}:{found['name']}"
