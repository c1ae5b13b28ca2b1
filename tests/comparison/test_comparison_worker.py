"""Work of one process on a study: order, failures, interrupts, shared storages."""

from __future__ import annotations

import functools
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from study_support import diverging, numbers, study, toy

from dashpot.comparison import Entry, Interrupted, Study, StudyFolder, StudyProgress, read_run, run_study
from dashpot.comparison import study_queue as study_queue_module
from dashpot.comparison.runner import complete_study
from dashpot.comparison.sessions import read_sessions
from dashpot.comparison.study_items import items
from dashpot.comparison.study_queue import open_queue
from dashpot.comparison.worker import DEATHS, Worker
from dashpot.comparison.worker_times import WorkerTimes
from dashpot.errors import ArgumentError, RunError
from dashpot.scheduling.outages import StorageLost
from dashpot.scheduling.storage import Storage, open_storage


class AtStep(StudyProgress):
    """Progress report that calls a function once, at a total number of steps, and keeps the keys of items."""

    def __init__(self, steps: int, action) -> None:
        self.left, self.action, self.started = steps, action, []

    def start(self, key: str, steps_done: int = 0, worker: int = 0) -> None:
        super().start(key, steps_done, worker)
        self.started.append(key)

    def step(self, steps_done: int, worker: int = 0) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()


class Breaks(torch.optim.SGD):
    """Optimizer that raises an exception in its second step."""

    def step(self, closure=None):
        if self.state.setdefault("steps", 0) == 1:
            raise RuntimeError("out of\nluck")
        self.state["steps"] = 1
        return super().step(closure)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of the uninterrupted study of SGD and Adam with four steps each."""
    out = tmp_path_factory.mktemp("whole")
    run_study(study("sgd", "adam", epochs=1), out)
    return out


def results(folder):
    return numbers(StudyFolder(folder).runs())


def test_trials_precede_the_runs_of_their_method_and_runs_precede_other_rates(tmp_path):
    tuned = Study(toy(), study("sgd", "adam").entries, (0,), 1, budget=2, tune=("lr",), evaluate_every=4)
    progress = AtStep(0, None)
    outcomes = complete_study(tuned, tmp_path / "out", progress=progress)
    assert progress.started == [item.key for item in items(tuned)]
    kinds = [key.partition("/")[0] for key in progress.started]
    assert kinds == ["trial"] * 4 + ["run"] * 2 + ["rate"] * 8
    assert set(outcomes) == set(progress.started)


def test_failed_run_is_kept_and_the_others_continue(tmp_path):
    mixed = Study(toy(), (Entry("breaks", Breaks, 0.1), *study("adam").entries), (0, 1), 1)
    progress = AtStep(0, None)
    outcomes = complete_study(mixed, tmp_path / "out", progress=progress)
    status = {key: outcome.status for key, outcome in outcomes.items()}
    assert status == {
        "run/breaks/0": "failed",
        "run/breaks/1": "failed",
        "run/adam/0": "done",
        "run/adam/1": "done",
    }
    run = read_run(tmp_path / "out/runs/breaks-seed0.jsonl")
    assert run.end is not None
    assert run.end["error"] == "RuntimeError: out of luck"
    again = AtStep(0, None)
    complete_study(mixed, tmp_path / "out", progress=again)
    assert again.started == []


def test_item_that_has_killed_three_workers_fails_without_execution(tmp_path):
    both = study("sgd", "adam")
    folder = StudyFolder(tmp_path / "out")
    folder.prepare(both.settings(), None)
    progress = AtStep(0, None)
    with open_queue(both, folder, None, str) as queue:
        queue.add(items(both))
        progress.begin(2, 12)
        deaths = {"run/sgd/0": DEATHS, "run/adam/0": DEATHS - 1}
        Worker(both, queue, folder, progress, lambda: None, deaths=deaths).work()
        outcomes = queue.outcomes()
    assert progress.started == ["run/adam/0"]
    assert {key: outcome.status for key, outcome in outcomes.items()} == {"run/sgd/0": "failed", "run/adam/0": "done"}
    end = read_run(tmp_path / "out/runs/sgd-seed0.jsonl").end
    assert end is not None
    assert end["error"] == "the worker process died 3 times during this item"


def test_lost_item_is_abandoned(tmp_path):
    one = study("adam")
    folder = StudyFolder(tmp_path / "out")
    folder.prepare(one.settings(), None)
    times = WorkerTimes()
    with open_queue(one, folder, None, str) as queue:
        queue.add(items(one))

        def lose() -> None:
            [claim] = queue._claims.values()
            claim.is_lost = True

        progress = AtStep(3, lose)
        progress.begin(1, 12)
        Worker(one, queue, folder, progress, lambda: None, times=times).work()
    # The item is free, since no other worker exists, so this worker claims it again.
    assert progress.started == ["run/adam/0"] * 2
    assert times.items == 1


@pytest.mark.needs_posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_stops_between_steps_and_the_study_resumes(tmp_path, whole, number, code):
    stop = AtStep(7, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as stopped:
        run_study(study("sgd", "adam", epochs=1), tmp_path / "out", progress=stop, command="dashpot compare toy")
    assert stopped.value.code == code
    assert str(stopped.value) == (
        f"Stopped. {tmp_path / 'out'} has 1 of 2 runs, and adam seed 0 up to step 2 of 4. "
        "Resume with: dashpot compare toy"
    )
    again = AtStep(0, None)
    assert numbers(run_study(study("sgd", "adam", epochs=1), tmp_path / "out", progress=again)) == results(whole)
    assert again.started == ["run/adam/0"]


def test_study_of_python_objects_runs_in_one_process_only(tmp_path):
    with pytest.raises(ArgumentError, match=r"^run_study: jobs must be 1 for a study of Python objects"):
        run_study(study(), tmp_path / "out", jobs=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("jobs", [0, -1, 1.5, True, "2", None])
def test_invalid_jobs_raise(tmp_path, jobs):
    with pytest.raises(ArgumentError, match=r"^run_study: jobs must be an integer in \[1, inf\)"):
        run_study(study(), tmp_path / "out", jobs=jobs)


def test_second_folder_is_completed_from_the_storage(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    mixed = Study(toy(), (diverging(), *study("adam").entries), (0,), 1)
    one = run_study(mixed, tmp_path / "one" / "out", storage=url)
    progress = AtStep(0, None)
    two = run_study(mixed, tmp_path / "two" / "out", storage=url, progress=progress)
    assert progress.started == []
    assert [(run.entry, run.seed, run.status) for run in two] == [(run.entry, run.seed, run.status) for run in one]
    assert repr([run.epochs for run in two]) == repr([run.epochs for run in one])  # NaN != NaN
    assert [run.end for run in two] == [run.end for run in one]


def test_storage_with_other_settings_of_the_same_name_is_an_error(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    run_study(study(epochs=1), tmp_path / "one" / "out", storage=url)
    with pytest.raises(RunError, match="epochs: saved 1, current 2"):
        run_study(study(epochs=2), tmp_path / "two" / "out", storage=url)


def test_finished_records_without_a_journal_are_not_trained_again(tmp_path):
    before = numbers(run_study(study(epochs=1), tmp_path / "out"))
    (tmp_path / "out" / "study.journal").unlink()
    steps = AtStep(1, pytest.fail)
    assert numbers(run_study(study(epochs=1), tmp_path / "out", progress=steps)) == before


def test_lost_storage_ends_the_study_with_the_command_that_resumes(tmp_path, monkeypatch, whole):
    from sqlalchemy.exc import OperationalError

    both, url = study("sgd", "adam", epochs=1), f"sqlite:///{tmp_path / 'shared.db'}"
    real = Storage.attempt

    def lose() -> None:
        def attempt(self, operation):
            raise OperationalError("SELECT 1", None, Exception("the server has closed the connection"))

        monkeypatch.setattr(Storage, "attempt", attempt)

    with monkeypatch.context() as patch:
        patch.setattr(study_queue_module, "open_storage", functools.partial(open_storage, limit=0.2))
        with pytest.raises(StorageLost) as lost:
            run_study(both, tmp_path / "out", storage=url, progress=AtStep(5, lose), command="dashpot x")
    monkeypatch.setattr(Storage, "attempt", real)
    message = str(lost.value)
    assert "has not answered" in message
    assert message.endswith(f"{tmp_path / 'out'} has 2 of 2 runs. Resume with: dashpot x")
    again = AtStep(1, pytest.fail)  # the records of both runs are complete
    assert numbers(run_study(both, tmp_path / "out", storage=url, progress=again)) == results(whole)


@pytest.mark.needs_linux
def test_study_resumes_after_a_full_disk(tmp_path, whole):
    import resource

    both = study("sgd", "adam", epochs=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (whole / "study.journal").stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, before[1]))  # the journal is the largest file
        with pytest.raises(RunError, match=r"File too large; .+ are kept"):
            run_study(both, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert numbers(run_study(both, tmp_path / "out")) == results(whole)


def test_times_of_sessions_are_recorded(tmp_path):
    run_study(study("sgd", "adam", epochs=1), tmp_path / "out")
    run_study(study("sgd", "adam", epochs=1), tmp_path / "out")  # has nothing to do
    [session] = read_sessions(tmp_path / "out")
    assert session["items"] == 2
    assert session["jobs"] == 1
    assert session["training_s"] > 0
    with Path(tmp_path / "out" / "sessions.jsonl").open("a") as stream:
        stream.write('{"items": 3')  # a killed process
    assert read_sessions(tmp_path / "out") == [session]
    assert json.dumps(session)
