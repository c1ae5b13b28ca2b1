"""A C++ compiler at work as a child process, in a temporary folder of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import util
from pathlib import Path

from dashpot.engine.native.compiler import Compiler

__all__ = ["Job", "compilations"]

TIMEOUT = 120.0
"""Seconds after which a compiler counts as hung."""

_launches = itertools.count()
_launched = 0


def compilations() -> int:
    """How many compilers this process has started, its parents' before a fork included.

    >>> compilations() >= 0
    True
    """
    return _launched


class Job:
    """A temporary folder with one source text, in which compilers run, one at a time.

    As a context manager it ends the compiler and removes the folder, whatever ends the block; the end of the process
    does the same.

    Raises:
        OSError: there is no temporary folder that can be written to.
    """

    def __init__(self, source: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dashpot-build-"))
        self.built = self.folder / "kernel.so"
        self.stopped: str | None = None
        """Why the compiler was ended before it was done."""
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        # Runs at the end of the process where a daemon thread compiles, also in a process that multiprocessing forked;
        # a forked child leaves the compiler and the folder to its parent.
        self._close = util.Finalize(None, self._end, exitpriority=10)
        try:
            (self.folder / "kernel.cpp").write_text(source, encoding="utf-8")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def launch(self, compiler: Compiler) -> None:
        """Start the compiler and return.

        It leads a session of its own, so that it can be ended together with the programs it calls, and keeps its
        temporary files in the folder, so that they go with it.

        Raises:
            OSError: it cannot be started.
        """
        global _launched  # noqa: PLW0603
        self._began = time.monotonic()
        with (self.folder / "messages").open("wb") as messages:
            self._process = subprocess.Popen(
                compiler.command("kernel.cpp", "kernel.so"),
                cwd=self.folder,
                env={**os.environ, "LC_ALL": "C", "TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                start_new_session=True,
            )
        _launched = next(_launches) + 1

    def running(self) -> bool:
        """Whether the compiler is still at work; one that hangs is ended here."""
        if self._process is None or self._process.poll() is not None:
            return False
        if self.elapsed() < TIMEOUT:
            return True
        self.stopped = f"it did not end within {TIMEOUT:.0f} seconds"
        self._kill()
        return False

    def elapsed(self) -> float:
        """Seconds since the compiler was started."""
        return time.monotonic() - self._began

    def complaint(self) -> str | None:
        """None where the compiler that has ended made a library, else its first line about an error."""
        code = None if self._process is None else self._process.returncode
        if code == 0 and self.built.is_file():
            return None
        if self.stopped:
            return self.stopped
        lines = (self.folder / "messages").read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line.strip() for line in lines if "error" in line.lower()] or [
            line.strip() for line in lines if line
        ]
        return telling[0] if telling else f"it ended with status {code} and said nothing"

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stopped = "its process ends"
            self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        """End the compiler with all the programs it called, and wait until it has ended."""
        assert self._process is not None
        if sys.platform == "win32":
            self._process.kill()
        else:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it ended just now
                self._process.kill()
        self._process.wait()
