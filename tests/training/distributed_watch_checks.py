"""Distributed checks of watched fits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from distributed_support import assert_equal_on_all_ranks, assert_same, learner

import dashpot as dp
from dashpot.runs.watch_file import read_watch_file
from dashpot.training import Watch


class WatchEverything(Watch):
    """Run every probe at every third step, whatever it costs."""

    def before_fit(self, learner):
        super().before_fit(learner)
        assert self.watcher is not None
        for probe in self.watcher.probes:
            probe.every, probe.always = min(probe.every, 3), True  # type: ignore[misc]


def watched_fit_equals_unwatched_fit(strategy: str, accumulate: int) -> None:
    """The last batch has a single example, so that the slice of rank 1 is empty."""
    watched, plain = (learner(dp.AdamW, strategy, accumulate, dtype=torch.float64) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "watch.jsonl")
        callback = WatchEverything(budget=1.0, path=path)
        watched.fit(4, callbacks=[callback])
        if watched.engine.is_rank_zero:
            assert read_watch_file(path).rows("norms").rows[-1]["step"] >= 4
    plain.fit(4)
    assert_equal_on_all_ranks(watched)
    for epoch in watched.history:
        for name in ("update_ratio", "edge_ratio", "noise_scale"):
            epoch["train"].pop(name, None)
    assert_same(watched, plain, 0.0)
    assert callback.watcher is not None
    rows = [row["grad"] for row in callback.watcher.record.rows("norms")]
    gathered = watched.engine.all_gather(rows)
    assert gathered[0] == gathered[1]
