"""URLs of databases: hidden passwords, drivers."""

from __future__ import annotations

import re
from importlib.util import find_spec

from dashpot.errors import RunError

_URL = re.compile(r"[\w+.-]+://")
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):.*@", re.DOTALL)
_PASSWORD_IN_COMMAND = re.compile(r"(?<=://)([^/@:\s]*):\S*@")
_SECRET_OPTION = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&]*", re.IGNORECASE)
_POSTGRESQL = re.compile(r"^postgres(?:ql)?://")


def masked(url: str) -> str:
    """Return a URL, or a command that contains one, with each password replaced by ***.

    >>> masked("postgresql://ada:s3cret@db.example:5432/studies")
    'postgresql://ada:***@db.example:5432/studies'
    >>> masked("postgresql://db/studies?user=ada&password=s3cret")
    'postgresql://db/studies?user=ada&password=***'
    """
    password = _PASSWORD if _URL.match(url) else _PASSWORD_IN_COMMAND
    return _SECRET_OPTION.sub(r"\1***", password.sub(r"\1:***@", url))


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
