"""Noise scale under DDP and FSDP2, with two processes."""

from pathlib import Path

import pytest
from noise_worker import CHECKS
from processes import run_processes

WORKER = Path(__file__).parent / "noise_worker.py"


@pytest.mark.slow
@pytest.mark.needs_gloo
def test_checks_pass_on_both_ranks(tmp_path):
    for rank, found in enumerate(run_processes(WORKER, tmp_path, ".")):
        failed = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not failed, (rank, failed)
        assert found.keys() == CHECKS.keys()
