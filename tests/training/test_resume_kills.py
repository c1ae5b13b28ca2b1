"""Bit-identical resume of processes that are killed during training or while writing a checkpoint."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import kill_worker
import pytest
from learner_support import same, weights
from processes import LIMIT

from dashpot.training.callbacks.checkpoints import best
from dashpot.training.state import checkpoint_file

KILLS = [
    "batch 1",  # before the first checkpoint, as a step has two batches
    "batch 3",
    "write 2 0",  # an empty file
    "write 1 4000",  # a partial file
    "rename 2",  # a complete file, before the old ones are removed
    "best 1",  # before the best one is recorded
    "batch 5",
    "write 3 20000",
]


FEW = ["batch 3", "write 1 4000", "rename 2"]


@pytest.mark.needs_posix
@pytest.mark.parametrize("kills", [FEW, pytest.param(KILLS, marks=pytest.mark.slow)], ids=len)
def test_repeatedly_killed_run_resumes_bit_identically(tmp_path, kills):
    command = [sys.executable, kill_worker.__file__, str(tmp_path / "killed"), *kills, "end"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(kills) + ["0"], done.stderr
    uninterrupted = kill_worker.train(tmp_path / "uninterrupted")
    resumed = kill_worker.train(tmp_path / "killed")  # only loads the checkpoint, as the run is complete
    assert same(weights(uninterrupted), weights(resumed))
    assert uninterrupted.history == resumed.history
    names = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert [Path(name).suffix for name in names] == [".json", *[".ckpt"] * (len(names) - 1)]
    for name in names[1:]:
        assert checkpoint_file.read(tmp_path / "killed" / name)
    actual, expected = (
        json.loads((tmp_path / folder / "best.json").read_text()) for folder in ("killed", "uninterrupted")
    )
    assert (actual["epoch"], actual["value"]) == (expected["epoch"], expected["value"])
    assert checkpoint_file.read(best(tmp_path / "killed"))["progress"]["position"] == [actual["epoch"], 0]
