"""Watching under DDP and FSDP2 in two processes; the checks are in watch_worker.py."""

from pathlib import Path

import pytest
from processes import run_processes

WORKER = Path(__file__).parent / "watch_worker.py"


@pytest.mark.slow
@pytest.mark.needs_gloo
def test_watching_on_two_ranks(tmp_path):
    for rank, found in enumerate(run_processes(WORKER, tmp_path, ".")):
        failed = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not failed, (rank, failed)
        assert len(found) == 7
