"""Distributed training: DDP and FSDP2 over gloo in two processes, compared with a single process.

The checks are functions in distributed_worker.py. One pair of processes runs all checks, so that it starts up only
once; the outcome of each check is a test.
"""

from pathlib import Path

import pytest
import torch
from distributed_worker import FAST, table
from processes import run_processes
from registry import SUBJECTS

import dashpot as dp
from dashpot.training import Engine
from dashpot.training.distributed.process_group import launcher_ranks

WORKER = Path(__file__).parent / "distributed_worker.py"
ENVIRONMENT = {
    "RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}
CHECKS = [name for name in table() if not name.startswith("slow")]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_processes(WORKER, tmp_path_factory.mktemp("distributed"), FAST)


@pytest.mark.needs_gloo
@pytest.mark.parametrize("name", CHECKS)
def test_check_passes_on_both_ranks(outcomes, name):
    for rank, found in enumerate(outcomes):
        reason = found.get(name, "not run, because the ranks disagreed in an earlier check")
        assert reason == "passed", f"rank {rank}: {reason}"


@pytest.mark.slow
@pytest.mark.needs_gloo
def test_all_other_checks_pass_on_both_ranks(tmp_path):
    """The checks cover all subjects in both precisions, with and without accumulation, and more methods and loaders."""
    for rank, found in enumerate(run_processes(WORKER, tmp_path, "^slow")):
        failed = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not failed, (rank, failed)
        assert len(found) > 6 * len(SUBJECTS)


# ---- without a second process ---------------------------------------------------------------------------------------


def test_engine_with_several_devices_requires_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(dp.ArgumentError, match="devices=2 needs a launcher: torchrun --nproc-per-node 2 SCRIPT"):
        Engine("cpu", devices=2)


@pytest.mark.parametrize("devices", [0, 1.5, -1])
def test_engine_rejects_invalid_devices(devices):
    with pytest.raises(dp.ArgumentError, match="devices"):
        Engine("cpu", devices=devices)


def test_incomplete_or_invalid_launcher_variables_raise():
    with pytest.raises(dp.RunError, match="not LOCAL_RANK, MASTER_ADDR, MASTER_PORT; torchrun sets all"):
        launcher_ranks({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(dp.RunError, match="must be integers"):
        launcher_ranks({**ENVIRONMENT, "WORLD_SIZE": "two"})
    assert launcher_ranks({**ENVIRONMENT, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}) == (0, 8, 0, 4)


def test_launcher_of_one_process_creates_no_group(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    engine = Engine("cpu", strategy="fsdp")
    assert (engine.world_size, engine.sharded, torch.distributed.is_initialized()) == (1, False, False)
