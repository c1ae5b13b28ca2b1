"""Entry point of `python -m dashpot`; the command `dashpot` is `dashpot_command` itself."""

from __future__ import annotations

import sys

from dashpot_command import main

if __name__ == "__main__":
    sys.exit(main())
