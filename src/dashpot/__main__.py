"""Entry point of the command `dashpot`, and of `python -m dashpot`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the answer is the exit code: 0 done, 2 the caller's mistake, 130 stopped by Ctrl-C."""
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        print("The command line needs its packages: pip install 'dashpot[cli]'.", file=sys.stderr)
        return 2
    from dashpot.cli import run

    return run(list(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
