"""Watching under DDP and FSDP2 in two processes; the checks are in the workers."""

from pathlib import Path

import noise_worker
import pytest
from processes import assert_passed, run_processes


@pytest.mark.slow
@pytest.mark.needs_gloo
@pytest.mark.parametrize(("worker", "count"), [("watch_worker", 7), ("noise_worker", len(noise_worker.CHECKS))])
def test_watching_on_two_ranks(tmp_path, worker, count):
    assert_passed(run_processes(Path(__file__).parent / f"{worker}.py", tmp_path, "."), count)
