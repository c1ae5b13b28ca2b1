"""Studies in several processes: deaths of workers and parents, interrupts, concurrent commands."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from processes import LIMIT
from worker_support import (
    KEYS,
    WORDS,
    alive,
    children,
    complete,
    evaluated,
    executed,
    results,
    start,
    wait_for,
    write_task,
)

from dashpot.comparison import StudyFolder
from dashpot.comparison.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.needs_linux]

JOBS = ("--jobs", "2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list:
    """Return the results of the study in one process."""
    folder = write_task(tmp_path_factory.mktemp("whole"), pause=0.0)
    complete(folder)
    return results(folder)


def test_jobs_give_the_results_of_one_process(tmp_path, whole):
    out = complete(write_task(tmp_path, pause=0.0), extra=JOBS)
    assert results(tmp_path) == whole
    assert executed(tmp_path) == len(KEYS)
    assert out.count("done  loss") == len(KEYS)
    assert "Scheduling took " in out
    again = complete(tmp_path, extra=JOBS)
    assert "All 6 items were done in an earlier session." in again
    assert executed(tmp_path) == len(KEYS)


def test_killed_worker_is_reported_and_its_item_is_taken_over(tmp_path, whole):
    with start(write_task(tmp_path), extra=JOBS) as process:
        wait_for(lambda: evaluated(tmp_path) > 3, process)
        os.kill(children(process)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (0, "")
    assert out.count(" died during ") == 1
    assert "SIGKILL, which the system sends if memory is exhausted. Its item is taken over." in out
    assert results(tmp_path) == whole
    assert out.count("done  loss") == len(KEYS)


def test_workers_of_a_killed_parent_stop_and_the_same_command_resumes(tmp_path, whole):
    with start(write_task(tmp_path), extra=JOBS) as process:
        wait_for(lambda: evaluated(tmp_path) > 3, process)
        workers = children(process)
        assert len(workers) == 2
        process.kill()
        process.wait()
        wait_for(lambda: not any(map(alive, workers)))
    assert not all(run.end for run in StudyFolder(tmp_path / "out").runs())
    complete(tmp_path, extra=JOBS)
    assert results(tmp_path) == whole


def test_kill_of_all_processes_loses_nothing(tmp_path, whole):
    with start(write_task(tmp_path), extra=JOBS) as process:
        wait_for(lambda: evaluated(tmp_path) > 3, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    complete(tmp_path, extra=JOBS)
    assert results(tmp_path) == whole


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_to_all_processes_stops_the_study(tmp_path, whole, number, code):
    with start(write_task(tmp_path), extra=JOBS) as process:
        wait_for(lambda: evaluated(tmp_path) > 3, process)
        workers = children(process)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "Stopped. out has " in err
    assert " of 6 runs" in err
    assert "Resume with: dashpot compare slow.py:build" in err
    assert not any(map(alive, workers))
    complete(tmp_path, extra=JOBS)
    assert results(tmp_path) == whole


def test_item_that_kills_its_workers_fails_and_the_others_are_done(tmp_path):
    write_task(tmp_path, pause=0.0)
    (tmp_path / "deadly").touch()
    words = ["sgd" if word == "sgd,adam" else word for word in WORDS]
    out = complete(tmp_path, *words, extra=JOBS)
    assert "failed: the worker process died " in out
    # A worker may claim the item before it receives the third death.
    assert 3 <= len(Path(tmp_path / "deaths").read_text()) <= 4
    status = {run.seed: run.status for run in StudyFolder(tmp_path / "out").runs()}
    assert status == {0: "done", 1: "failed", 2: "done"}


def test_two_commands_on_one_folder_share_the_work(tmp_path, whole):
    write_task(tmp_path, pause=0.15)  # longer than the difference of two starts on a busy machine
    with start(tmp_path) as one, start(tmp_path) as two:
        ends = [process.communicate(timeout=LIMIT) for process in (one, two)]
    assert [process.returncode for process in (one, two)] == [0, 0], ends
    assert results(tmp_path) == whole
    sessions = [session["items"] for session in read_sessions(tmp_path / "out")]
    assert sum(sessions) == len(KEYS)  # none twice
    assert len(sessions) == 2  # both have worked


def test_worker_command_joins_a_running_study(tmp_path, whole):
    with start(write_task(tmp_path, pause=0.3)) as process:  # longer than the start of a worker on a busy machine
        wait_for(lambda: evaluated(tmp_path) > 0, process)
        out = complete(tmp_path, "worker", "out", "--threads", "1")
        assert process.wait(timeout=LIMIT) == 0
    assert "done  loss" in out
    assert out.endswith("The study is finished.\n")
    assert results(tmp_path) == whole


def test_full_disk_stops_all_workers_with_one_message(tmp_path, whole):
    write_task(tmp_path, pause=0.0)
    with start(tmp_path, extra=JOBS) as process:
        import resource

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert "File too large" in err
    assert "Traceback" not in err
    complete(tmp_path, extra=JOBS)
    assert results(tmp_path) == whole
