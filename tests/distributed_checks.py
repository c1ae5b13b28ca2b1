"""Runner of named checks in every process of a distributed test."""

from __future__ import annotations

import json
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import PEER_LIMIT

__all__ = ["run_checks"]


def run_checks(checks: Mapping[str, Callable[[], object]]) -> None:
    """Run the checks of a worker script `RANK WORLD FOLDER PATTERN` and write FOLDER/outcomes-RANK.json.

    PATTERN is a regular expression for the names of checks; an outcome is "passed" or a traceback. The process
    continues after a check that failed on all ranks, and stops after a check that failed on only some ranks, because
    the collectives of the ranks no longer match.
    """
    rank, world, folder, pattern = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    warnings.simplefilter("error")
    store: Any = dist.FileStore(str(folder / "store"), world)  # pyright: ignore[reportPrivateImportUsage]
    limit = timedelta(seconds=PEER_LIMIT)
    store.set_timeout(limit)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    outcomes: dict[str, str] = {}
    for name, check in checks.items():
        if not re.search(pattern, name):
            continue
        try:
            check()
            outcomes[name] = "passed"
        except BaseException:
            outcomes[name] = traceback.format_exc()
        if not _same_on_all_ranks(store, name, outcomes[name]):
            break
    (folder / f"outcomes-{rank}.json").write_text(json.dumps(outcomes))
    if all(outcome == "passed" for outcome in outcomes.values()):
        dist.destroy_process_group()


def _same_on_all_ranks(store: Any, name: str, outcome: str) -> bool:
    """Return whether the check has passed on all ranks or failed on all ranks."""
    store.set(f"{name} {dist.get_rank()}", str(outcome == "passed"))
    return len({store.get(f"{name} {rank}") for rank in range(dist.get_world_size())}) == 1
