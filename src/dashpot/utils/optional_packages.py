"""Packages of the optional extras."""

from __future__ import annotations

from importlib.util import find_spec

from dashpot.errors import RunError


def need(owner: str, *packages: str, extra: str) -> None:
    """Check that packages are installed, without importing them.

    Args:
        owner: Subject of the message, such as "A comparison".
        packages: Names of the packages, which are also the names of their modules.
        extra: Extra of dashpot that installs them.

    Raises:
        RunError: If a package is missing.

    >>> need("An array", "numpy", extra="study")
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RunError(f"{owner} needs {' and '.join(missing)}: pip install 'dashpot[{extra}]'.")
