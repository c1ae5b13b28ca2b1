"""Killed at any place, a fit goes on to the same bits and leaves nothing half-written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import kill_worker
import pytest
from learner_support import same, weights

from dashpot.training.callbacks.checkpoints import best
from dashpot.training.state import checkpoint_file

KILLS = [
    "batch 1",  # before there is any checkpoint: one step takes two batches
    "batch 3",
    "write 2 0",  # an empty file
    "write 1 4000",  # half of one
    "named 2",  # complete, the old ones not removed yet
    "mark",  # the best one not marked yet
    "batch 5",
    "write 3 20000",
]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_eight_kills_change_nothing(tmp_path):
    command = [sys.executable, kill_worker.__file__, str(tmp_path / "out"), *KILLS, "end"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(KILLS) + ["0"], done.stderr
    whole = kill_worker.train(tmp_path / "whole")
    resumed = kill_worker.train(tmp_path / "out")  # it is finished: this only reads
    assert same(weights(whole), weights(resumed))
    assert whole.history == resumed.history
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [Path(name).suffix for name in names] == [".json", *[".ckpt"] * (len(names) - 1)]
    for name in names[1:]:
        assert checkpoint_file.read(tmp_path / "out" / name)
    told, expected = (json.loads((tmp_path / folder / "best.json").read_text()) for folder in ("out", "whole"))
    assert (told["epoch"], told["value"]) == (expected["epoch"], expected["value"])
    assert checkpoint_file.read(best(tmp_path / "out"))["progress"]["position"] == [told["epoch"], 0]
