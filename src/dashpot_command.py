"""The command `dashpot`: what has to happen before torch is loaded, which takes seconds, and then the command line.

Outside the package, as importing anything inside it loads torch first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["POLICY", "main", "to_sleep"]

TRAINING = ("compare", "demo", "lr-find", "reproduce", "train")
POLICY = "OMP_WAIT_POLICY"


def main() -> int:
    """Run the command in `sys.argv`; the answer is its exit code, as docs/compare.md lists them."""
    if to_sleep(sys.argv[1:]):
        os.environ[POLICY] = "PASSIVE"
    try:
        from dashpot.__main__ import main as run
    except KeyboardInterrupt:  # imports take seconds
        print("\nStopped.", file=sys.stderr)
        return 130
    return run()


def to_sleep(words: Sequence[str]) -> bool:
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
