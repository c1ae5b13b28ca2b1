"""Entry point of the command `dashpot`, which sets the thread policy before torch is loaded."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence

TRAINING = ("compare", "demo", "experiment", "lr-find", "reproduce", "train", "tune", "verify", "worker")
POLICY = "OMP_WAIT_POLICY"


def main() -> int:
    """Run the command in `sys.argv` and return its exit code; docs/compare.md lists the codes."""
    try:
        run = _load()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    code = 2 if run is None else run(sys.argv[1:])
    gc.freeze()  # at exit, Python would search the objects of torch for garbage, for most of a second
    return code


def _load() -> Callable[[Sequence[str]], int] | None:
    """Return the function that runs a command line; if packages are missing, print an error and return None."""
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print("The command line requires additional packages: pip install 'dashpot[cli]'.", file=sys.stderr)
        return None
    if _uses_passive_waiting(sys.argv[1:]):
        os.environ[POLICY] = "PASSIVE"
    from dashpot.cli.main import run

    return run


def _uses_passive_waiting(words: Sequence[str]) -> bool:
    """Return whether OpenMP threads should sleep while waiting: in training commands, unless a policy is configured.

    By default, threads of GNU OpenMP, which torch uses on Linux, spin while waiting. On a machine with other load, they
    may spin while the thread they wait for has no core: on two cores with one other busy process, an epoch of
    Fashion-MNIST took 37 s with two spinning threads, 6 s with two sleeping threads, and 9 s with one thread. OpenMP
    reads the policy when torch is loaded.
    """
    configured = {POLICY, "GOMP_SPINCOUNT"} & set(os.environ)
    return sys.platform == "linux" and not configured and any(word in TRAINING for word in words)


if __name__ == "__main__":
    sys.exit(main())
