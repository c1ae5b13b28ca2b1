"""The command `dashpot worker`, a process that executes items of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import print_first_line
from dashpot.cli.study_options import Storage, Threads, check_threads


def worker(
    folder: Annotated[Path, Parameter(help="Output folder of the study, made by `dashpot compare`.")],
    /,
    *,
    storage: Storage = None,
    threads: Threads = None,
    pipe: Annotated[bool, Parameter(show=False)] = False,
) -> int:
    """Execute items of the study in a folder, alongside other processes, until it is finished.

    `dashpot compare --jobs N` starts N workers itself.
    """
    check_threads("worker", threads)
    if not pipe:
        print_first_line(f"Working on the study in {folder}.")
    from dashpot.comparison.worker_command import run_worker

    return run_worker(folder, storage=storage, threads=threads, pipe=pipe)
