"""The command `dashpot`: what has to happen before torch is loaded, which takes seconds, and then the command line.

Outside the package, as importing anything inside it loads torch first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

__all__ = ["main"]

TRAINING = ("compare", "demo", "lr-find", "reproduce", "train", "verify")
POLICY = "OMP_WAIT_POLICY"


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
    if _to_sleep(sys.argv[1:]):
        if "torch" in sys.modules:  # `python -m dashpot`: too late, so the process starts over, in place, once
            os.execve(sys.executable, sys.orig_argv, {**os.environ, POLICY: "PASSIVE"})
        os.environ[POLICY] = "PASSIVE"
    from dashpot.cli.main import run

    return run


def _to_sleep(words: Sequence[str]) -> bool:
    """Whether the threads of a command are to sleep while they wait for one another, and nobody has said how they do.

    By default GNU OpenMP, which torch uses on Linux, lets them spin. On a machine that does anything else besides, they
    then spend their time waiting for a thread that has no core: on two cores with one other busy process, an epoch of
    Fashion-MNIST took 37 s with two spinning threads, 6 s with two sleeping ones, and 9 s with one. The policy is read
    when torch is loaded.
    """
    chosen = {POLICY, "GOMP_SPINCOUNT"} & set(os.environ)
    return sys.platform == "linux" and not chosen and any(word in TRAINING for word in words)


if __name__ == "__main__":
    sys.exit(main())
