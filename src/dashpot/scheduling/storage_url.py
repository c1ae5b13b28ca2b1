"""Drivers in the URLs of databases."""

from __future__ import annotations

import re
from importlib.util import find_spec

from dashpot.errors import RunError

_POSTGRESQL = re.compile(r"^postgres(?:ql)?://")


def with_driver(url: str) -> str:
    """Add the installed driver to a URL of PostgreSQL: psycopg 3, else psycopg2.

    Without a driver in the URL, the choice depends on the version of SQLAlchemy.

    Raises:
        RunError: If no driver is installed.

    >>> with_driver("postgresql://db/studies")
    'postgresql+psycopg://db/studies'
    """
    if not _POSTGRESQL.match(url):
        return url
    for driver in ("psycopg", "psycopg2"):
        if find_spec(driver) is not None:
            return _POSTGRESQL.sub(f"postgresql+{driver}://", url)
    raise RunError("A study in PostgreSQL needs psycopg: pip install 'dashpot[postgresql]'.")
