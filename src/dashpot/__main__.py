"""Entry point of `python -m dashpot`; the command `dashpot` comes here by way of `dashpot_command`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from dashpot_command import POLICY, to_sleep

__all__ = ["main"]


def main() -> int:
    """Run the command in `sys.argv`; the answer is its exit code, as docs/compare.md lists them."""
    try:
        run = _load()
    except KeyboardInterrupt:  # imports take seconds
        print("\nStopped.", file=sys.stderr)
        return 130
    return 2 if run is None else run(sys.argv[1:])


def _load() -> Callable[[Sequence[str]], int] | None:
    """What runs a command line; None where its packages are missing, which is then said."""
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print("The command line needs its packages: pip install 'dashpot[cli]'.", file=sys.stderr)
        return None
    if to_sleep(sys.argv[1:]):
        # As a module of the package this one comes after torch, too late: the process starts over, in place, once.
        os.execve(sys.executable, sys.orig_argv, {**os.environ, POLICY: "PASSIVE"})
    from dashpot.cli import run

    return run


if __name__ == "__main__":
    sys.exit(main())
