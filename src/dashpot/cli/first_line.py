"""First line of a command, printed before torch is loaded."""

from __future__ import annotations

import os

from dashpot.runs.supervisor import SUPERVISOR


def print_first_line(text: str) -> None:
    """Print a line that describes the command, on rank 0 only; loading torch, which follows, takes seconds.

    A process that `dashpot train --devices` has launched prints nothing: the launching command has printed the line.
    """
    if is_first_process() and SUPERVISOR not in os.environ:
        print(text, flush=True)


def is_first_process() -> bool:
    """Return whether this process has rank 0 among the processes of a launcher, or has no launcher."""
    return os.environ.get("RANK", "0") == "0"
