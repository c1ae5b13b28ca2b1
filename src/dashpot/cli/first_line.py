"""First line of a command, printed before torch is loaded."""

from __future__ import annotations

import os

from dashpot.runs.supervisor import SUPERVISOR


def print_first_line(text: str) -> None:
    """Print what a command does, since loading torch takes seconds; of several processes, only the first one prints.

    A process that `dashpot train --devices` has launched prints nothing: the launching command has printed the line.
    """
    if os.environ.get("RANK", "0") == "0" and SUPERVISOR not in os.environ:
        print(text, flush=True)
