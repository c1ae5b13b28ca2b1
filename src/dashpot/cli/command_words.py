"""The command line of this process."""

from __future__ import annotations

import shlex
import sys


def command_line() -> str:
    """Return the command line of this process."""
    return shlex.join(["dashpot", *sys.argv[1:]])
