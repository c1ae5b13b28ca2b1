"""Several processes that train one model: DDP and FSDP2 over gloo, against the same run in one process.

The checks are functions of distributed_worker.py. All run in one set of processes, which takes as long as their start;
here each check's outcome in every process is a test of its own.
"""

from pathlib import Path

import pytest
import torch
from processes import run_processes
from registry import KINDS, SUBJECTS

import dashpot as dp
from dashpot.training import Engine
from dashpot.training.distributed.process_group import launcher_ranks

WORKER = Path(__file__).parent / "distributed_worker.py"

pytestmark = pytest.mark.needs_gloo

BOTH = ("ddp", "fsdp")
ACCUMULATE = {(i, j): 1 + (i + j) % 2 for i in range(len(SUBJECTS)) for j in range(2)}
"""Batches in a step; by turns over methods and strategies."""
CHECKS = (
    *(
        f"every_method[{s}-{how}-{ACCUMULATE[i, j]}-float32]"
        for i, s in enumerate(SUBJECTS)
        for j, how in enumerate(BOTH)
        if s.name in KINDS
    ),
    *(f"products[ESGD-1-{how}-{batches}]" for how in BOTH for batches in (1, 2)),
    *(f"products[{name}-{how}-2]" for name in ("ESGD-2", "AdaHessian", "Sophia") for how in BOTH),
    *(f"resumed[{name}-{how}]" for name in ("AdamW", "ESGD") for how in BOTH),
    *(
        f"reshaped[{name}-{between}-{batches}]"
        for name, batches in (("AdamW", 1), ("AutoSGM", 2), ("ESGD", 2))
        for how in BOTH
        for between in (f"{how}-one", f"one-{how}")
    ),
    *(
        f"{check}[{how}]"
        for check in ("weights_of_the_first", "noise_of_its_own", "buffers_of_the_first")
        for how in BOTH
    ),
    *(f"{check}[{how}]" for check in ("parameters_stay", "containers", "overflow_is_agreed") for how in BOTH),
    *(f"{check}[{how}-0]" for check in ("loader", "loader_resumed") for how in BOTH),
    *("loader[ddp-2]", "loader_resumed[ddp-2]"),
    *(f"loader_reshaped[{between}]" for how in BOTH for between in (f"{how}-one", f"one-{how}")),
    "differences_take_the_whole_step",
    "sends_once_a_step",
    "sums_and_wishes",
    "unshardable_reason",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return run_processes(WORKER, tmp_path_factory.mktemp("distributed"), "^(?!slow)")


@pytest.mark.parametrize("name", CHECKS)
def test_in_two_processes(outcomes, name):
    for rank, found in enumerate(outcomes):
        reason = found.get(name, "it did not run, as processes differed in an earlier check")
        assert reason == "passed", f"process {rank}: {reason}"


def test_every_check_is_asked_for(outcomes):
    assert set(outcomes[0]) == set(CHECKS)


@pytest.mark.slow
def test_every_combination_in_two_processes(tmp_path):
    """Every subject with and without accumulation in both precisions, and the rest of the states and products."""
    for rank, found in enumerate(run_processes(WORKER, tmp_path, "^slow", limit=1800)):
        wrong = {name: reason for name, reason in found.items() if reason != "passed"}
        assert not wrong, (rank, wrong)
        assert len(found) > 6 * len(SUBJECTS)


# ---- what needs no second process -----------------------------------------------------------------------------------


def test_several_devices_need_a_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(dp.ArgumentError, match="devices=2 needs a launcher: torchrun --nproc-per-node 2 SCRIPT"):
        Engine("cpu", devices=2)


@pytest.mark.parametrize("devices", [0, 1.5, -1])
def test_devices_is_a_number(devices):
    with pytest.raises(dp.ArgumentError, match="devices"):
        Engine("cpu", devices=devices)


def test_a_launcher_that_says_half():
    with pytest.raises(dp.RunError, match="not LOCAL_RANK, MASTER_ADDR, MASTER_PORT; torchrun sets all"):
        launcher_ranks({"RANK": "0", "WORLD_SIZE": "2"})
    env = {"RANK": "0", "WORLD_SIZE": "two", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(dp.RunError, match="must be integers"):
        launcher_ranks(env)
    assert launcher_ranks({**env, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}) == (0, 8, 0, 4)


def test_a_launcher_of_one_process(monkeypatch):
    """`torchrun --nproc-per-node 1` is one process: no group, nothing shared."""
    env = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    engine = Engine("cpu", strategy="fsdp")
    assert (engine.world_size, engine.sharded, torch.distributed.is_initialized()) == (1, False, False)
