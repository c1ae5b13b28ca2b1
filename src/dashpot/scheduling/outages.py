"""Errors of a storage: outages, which pass, and errors that remain."""

from __future__ import annotations

from collections.abc import Iterator

from dashpot.errors import RunError

_OUTAGES = {"OperationalError", "InterfaceError", "DisconnectionError", "ConnectionError", "TimeoutError"}
_AFTER_OUTAGE = "PendingRollbackError"  # raised by SQLAlchemy if the connection is lost within a transaction
_PERMANENT = ("read-only", "readonly", "permission denied", "no such table", "has no column", "no such column")
_STARTING = ("starting up", "shutting down", "recovery mode", "not yet accepting")
_REFUSED = ("password", "authentication", "does not exist", "pg_hba", "could not translate", "resolve", "not known")


class StorageLost(RunError):  # noqa: N818 - the public contract between scheduling and workers
    """A database has not answered for longer than the limit of retries."""


def is_outage(error: BaseException) -> bool:
    """Return whether an error may pass if the operation is repeated: lost connections, restarts, deadlocks.

    Classes are compared by name, since the drivers of a database are not imported here.

    >>> is_outage(ConnectionRefusedError("refused")), is_outage(ValueError("syntax"))
    (True, False)
    """
    chain = list(_causes(error))
    names = {base.__name__ for item in chain for base in type(item).__mro__}
    return bool(names & {*_OUTAGES, _AFTER_OUTAGE}) and not any(
        phrase in reason(error).lower() for phrase in _PERMANENT
    )


def is_starting(error: BaseException) -> bool:
    """Return whether a connection has failed because the database is starting or stopping."""
    return any(phrase in reason(error) for phrase in _STARTING)


def is_refused(error: BaseException) -> bool:
    """Return whether a connection has failed for a reason that a repetition does not change: host, account, name."""
    return not is_outage(error) or any(phrase in reason(error) for phrase in _REFUSED)


def reason(error: BaseException) -> str:
    """Return the message of the innermost cause on one line."""
    innermost = list(_causes(error))[-1]
    return " ".join(str(innermost).split()) or type(innermost).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        is_follower = type(found).__name__ == _AFTER_OUTAGE
        found = found.__context__ if is_follower and found.__cause__ is None else found.__cause__
