"""Studies of several commands on one PostgreSQL server, each with a folder of its own."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

import postgres_server
import pytest
from processes import LIMIT
from worker_support import KEYS, children, complete, evaluated, executed, results, start, wait_for, write_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs_linux,
    pytest.mark.skipif(bool(postgres_server.missing()), reason=postgres_server.missing() or "-"),
]


def rounded(found: list) -> list:
    """Return results without the losses of steps, which the storage thins."""
    return [(entry, seed, epochs, end) for entry, seed, _, _, epochs, end in found]


def test_two_machines_share_a_study_and_one_loses_a_worker(tmp_path):
    whole = write_task(tmp_path / "whole", pause=0.0)
    complete(whole)
    one, two = write_task(tmp_path / "one"), write_task(tmp_path / "two")
    with postgres_server.postgres_server() as server:
        storage = ("--storage", server.url())
        with ExitStack() as commands:
            first = commands.enter_context(start(one, extra=(*storage, "--jobs", "2")))
            wait_for(lambda: evaluated(one) > 3, first)
            second = commands.enter_context(start(two, extra=storage))
            os.kill(children(first)[0], signal.SIGKILL)
            ends = [process.communicate(timeout=LIMIT) for process in (first, second)]
        assert [process.returncode for process in (first, second)] == [0, 0], ends
        for folder in (one, two):
            assert rounded(results(folder)) == rounded(results(whole))
        assert executed(one, two) <= len(KEYS)
        assert "All 6 items were done in an earlier session." in complete(two, extra=storage)


def test_stopped_server_ends_the_commands_and_the_study_resumes(tmp_path):
    whole = write_task(tmp_path / "whole", pause=0.0)
    complete(whole)
    folder = write_task(tmp_path / "one")
    with postgres_server.postgres_server() as server:
        storage = ("--storage", server.url())
        with start(folder, extra=storage) as process:
            wait_for(lambda: evaluated(folder) > 3, process)
            server.stop()
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 2
        assert "has not answered for 60 s" in err
        assert " of 6 runs" in err
        command = "dashpot compare slow.py:build --methods sgd,adam --seeds 3 --threads 1 --out out"
        assert f"Resume with: {command} {' '.join(storage)}" in err
        server.start()
        complete(folder, extra=storage)
        assert results(folder) == results(whole)
