"""Execution of a C++ compiler as a child process with a temporary folder."""

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

TIMEOUT = 120.0
"""Time in seconds after which a compiler is killed."""

_launches = itertools.count()
_launched = 0


def compilations() -> int:
    """Return the number of compilers started by this process, plus those that its parents started before the fork.

    >>> compilations() >= 0
    True
    """
    return _launched


class CompileJob:
    """A temporary folder with one source file, which compilers process one at a time.

    On exit from the context manager or at the end of the process, the compiler is killed and the folder is removed.

    Args:
        source: C++ source text.

    Raises:
        OSError: If there is no writable temporary folder.
    """

    def __init__(self, source: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dashpot-build-"))
        self.built = self.folder / "kernel.so"
        self.kill_reason: str | None = None
        """The reason why the compiler was killed."""
        self._process: subprocess.Popen[bytes] | None = None
        self._start = 0.0
        # Unlike atexit, this finalizer also runs in processes forked by multiprocessing. In other forked children it
        # does nothing, because the compiler and the folder belong to the parent.
        self._close = util.Finalize(None, self._cleanup, exitpriority=10)
        try:
            (self.folder / "kernel.cpp").write_text(source, encoding="utf-8")
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> CompileJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def launch(self, compiler: Compiler) -> None:
        """Start the compiler without waiting for it.

        The compiler runs in a new session, so that its subprocesses can be killed together with it. Its temporary files
        are written to the job's folder.

        Raises:
            OSError: If the compiler cannot be started.
        """
        global _launched  # noqa: PLW0603
        self._start = time.monotonic()
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
        """Check whether the compiler is running, and kill the compiler if it has exceeded `TIMEOUT`."""
        if self._process is None or self._process.poll() is not None:
            return False
        if self.elapsed() < TIMEOUT:
            return True
        self.kill_reason = f"no result within {TIMEOUT:.0f} seconds"
        self._kill()
        return False

    def elapsed(self) -> float:
        """Return the number of seconds since the compiler was started."""
        return time.monotonic() - self._start

    def error(self) -> str | None:
        """Return the first error message of the finished compiler, or None if the compiler wrote a library."""
        code = None if self._process is None else self._process.returncode
        if code == 0 and self.built.is_file():
            return None
        if self.kill_reason:
            return self.kill_reason
        lines = (self.folder / "messages").read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.strip() for line in lines if "error" in line.lower()] or [line.strip() for line in lines if line]
        return errors[0] if errors else f"exit status {code} without a message"

    def _cleanup(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill_reason = "the process exits"
            self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kill(self) -> None:
        """Kill the compiler and its subprocesses, and wait until the compiler has exited."""
        assert self._process is not None
        if sys.platform == "win32":
            self._process.kill()
        else:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # already exited
                self._process.kill()
        self._process.wait()
