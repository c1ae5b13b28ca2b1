"""A PostgreSQL server for tests: its own data folder, on loopback, as another user if the tests run as root."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER = "studies"
_LIMIT = 120.0
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",  # tests kill processes, not the machine
    "log_min_messages": "warning",
}


@functools.cache
def binaries() -> Path | None:
    """Return the folder with initdb and postgres; None if PostgreSQL is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    if found := shutil.which("pg_config"):
        folders.append(Path(subprocess.check_output([found, "--bindir"], text=True).strip()))
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def missing() -> str:
    """Return why the server cannot be started; empty if it can."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed"
    if os.name == "nt" or binaries() is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is no other user"
    return ""


class Server:
    """A running server; `stop`, `kill` and `start` act on the same data folder and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """Create an empty database and return its URL."""
        self._databases += 1
        name = f"studies{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, command: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(command)  # pyright: ignore[reportArgumentType]

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        command = [_binary("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-k", str(self.folder)], stdout=log, stderr=log, cwd=self.folder, **_identity()
            )
        end = time.monotonic() + _LIMIT
        while not self._answers():
            if time.monotonic() > end or self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text(encoding="utf-8", errors="replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server; open connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server without notice to its clients, as in a crash."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_LIMIT)
            self._process = None

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(self.url(), connect_timeout=10).close()
            return True
        return False


@contextmanager
def postgres_server() -> Iterator[Server]:
    """Start a server with an empty data folder; at the end of the block, stop it and remove the folder."""
    folder = Path(tempfile.mkdtemp(prefix="dashpot-pg-", dir="/tmp"))  # the path of a socket is at most 107 bytes
    try:
        if user := _identity().get("user"):
            shutil.chown(folder, user)
        command = [_binary("initdb"), "-D", str(folder / "data"), "-U", USER, "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run([*command, "--locale=C"], check=True, capture_output=True, cwd=folder, **_identity())
        server = Server(folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()  # without a last checkpoint, as the data is removed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binary(name: str) -> str:
    folder = binaries()
    assert folder is not None, missing()
    return str(folder / name)


def _identity() -> dict[str, Any]:
    """Return the options of a subprocess that runs as another user, which PostgreSQL requires of root."""
    import pwd

    user = _other_user() if os.geteuid() == 0 else None
    return {} if user is None else {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _other_user() -> str | None:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
