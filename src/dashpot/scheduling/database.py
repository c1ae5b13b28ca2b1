"""Connection to a database as an Optuna storage, with checks of its contents before the first write."""

from __future__ import annotations

import time
import warnings
from typing import Any

from dashpot.errors import RunError
from dashpot.scheduling.optuna_library import load_optuna
from dashpot.scheduling.outages import is_outage, is_refused, is_starting, reason
from dashpot.scheduling.storage_url import with_driver
from dashpot.utils.passwords import without_passwords

_TABLES = {"studies", "trials", "version_info"}
_POSTGRESQL_OPTIONS = {
    "connect_timeout": 10,
    # A connection through a broken network otherwise blocks for many minutes.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30000,
}
_RACES = ("already exists", "unique constraint", "duplicate key")
_TRIES = 10
_LONGEST_SILENCE = 10.0
_PAUSE = 0.3


def connect(url: str, limit: float = 60.0) -> Any:
    """Return the Optuna storage of a database, whose tables are created if it is empty.

    Args:
        url: URL of SQLAlchemy, such as "postgresql://user@host/database".
        limit: Longest wait for a database that is starting, in seconds; >= 0. A server that does not answer is waited
            for at most ten seconds, since the address may be wrong.

    Raises:
        RunError: If the database cannot be reached or used; the message states a fix.
    """
    start, tries = time.monotonic(), 0
    while True:
        try:
            return _opened(url)
        except RunError:
            raise
        except ImportError as error:
            raise RunError(
                f"No driver for {without_passwords(url)} is installed ({error}): install it with pip, or name an "
                "installed one, as in postgresql+psycopg://host/database."
            ) from None
        except Exception as error:
            tries += 1
            if not _may_pass(error, time.monotonic() - start, tries, limit):
                raise RunError(_refusal(url, error)) from None
        time.sleep(_PAUSE)


def _may_pass(error: Exception, waited: float, tries: int, limit: float) -> bool:
    """Return whether to open a database again after an error."""
    if any(race in reason(error).lower() for race in _RACES):  # another worker creates the same tables
        return tries < _TRIES
    longest = limit if is_starting(error) else min(limit, _LONGEST_SILENCE)
    return not is_refused(error) and waited < longest


def _opened(url: str) -> Any:
    optuna = load_optuna()
    address = with_driver(url)
    options: dict[str, Any] = {}
    if address.startswith("postgresql"):
        options["connect_args"] = {key: value for key, value in _POSTGRESQL_OPTIONS.items() if f"{key}=" not in url}
    _check_tables(address, options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = _created(optuna.storages.RDBStorage, address, options)
    if storage.engine.name == "sqlite":
        _lock_transactions(storage.engine)
    return optuna.storages.get_storage(storage)


def _created(kind: Any, address: str, options: dict[str, Any]) -> Any:
    """Return a new storage; if its creation fails, close the connections that it has opened."""
    storage = kind.__new__(kind)
    try:
        # Optuna formats the URL, for its placeholder {SCHEMA_VERSION}.
        storage.__init__(address.replace("{", "{{").replace("}", "}}"), engine_kwargs=options)
    except BaseException:
        if hasattr(storage, "engine"):
            storage.engine.dispose()
        raise
    return storage


def _check_tables(address: str, options: dict[str, Any]) -> None:
    """Raise an error if the database contains tables, but none of Optuna's."""
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        engine = sqlalchemy.create_engine(sqlalchemy.engine.make_url(address), **options)
    except (ValueError, ArgumentError, NoSuchModuleError):
        raise RunError(
            f"{without_passwords(address)} is not the URL of a database, such as postgresql://user@host/database."
        ) from None
    try:
        tables = set(sqlalchemy.inspect(engine).get_table_names())
    finally:
        engine.dispose()
    # Optuna's migrations use the table alembic_version, as do those of other programs.
    if tables and not _TABLES & tables:
        names = ", ".join(sorted(tables)[:3])
        raise RunError(
            f"The database {without_passwords(address)} contains tables of a different program ({names}): "
            f"create a database of its own for studies, for example with createdb."
        )


def _lock_transactions(engine: Any) -> None:
    """Lock the file of SQLite at the start of each transaction.

    By default, two processes can read the same state of a trial before the first of them changes it.
    """
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def manual(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # existing connections have no manual transactions


_REFUSALS = {
    "optuna storage upgrade": "has tables of an older optuna: run `optuna storage upgrade --storage URL` once",
    "updating optuna": "has tables of a newer optuna: pip install -U optuna",
    "read-only": "is read-only: use an account and a database that can be written to",
    "readonly": "is read-only: use an account and a file that can be written to",
    "permission denied": "does not allow this account to create tables: grant it, or use another database",
}
"""Phrases of Optuna and of databases, and the corresponding messages."""


def _refusal(url: str, error: Exception) -> str:
    name, text = without_passwords(url), reason(error)
    for phrase, message in _REFUSALS.items():
        if phrase in text:
            return f"The database {name} {message}."
    if is_outage(error):
        return f"The database {name} cannot be reached: {text}; check address, account and password."
    return f"The database {name} cannot hold a study: {text}; use a database of its own, and a current optuna."
