"""Resume of one item: an interrupted item gives the same results as an uninterrupted one."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress

import pytest
from item_support import build_with_test, example_study, run_item, with_test
from slow_values import others_slow
from study_support import Killed, killed_at, numbers

from dashpot.comparison import Interrupted, StudyFolder, entry, known_entries, read_run
from dashpot.comparison import execution as execution_module
from dashpot.comparison.execution import execute
from dashpot.comparison.study_items import plan
from dashpot.errors import RunError
from dashpot.training.state import checkpoint_file
from dashpot.utils.strict_json import encode

KEY = "run/adam/0"
STEPS, EVERY = 12, 5


def study(name="adam", **settings):
    chosen = entry(name, "toy", lr=0.05, schedule="cosine")
    return example_study(chosen, **{"epochs": 3, "evaluate_every": EVERY, **settings})


def record(out, key=KEY):
    return read_run(StudyFolder(out).item_record(key))


def content(out, key=KEY):
    """Return everything recorded except times and memory."""
    run = record(out, key)
    assert run.end is not None
    kept = {name: value for name, value in run.end.items() if name not in ("cpu_s", "wall_s", "memory_bytes")}
    run.end = kept
    return encode({"numbers": numbers([run]), "initial": run.initial, "values": run.header["values"]})


def kill(out, steps, *, key=KEY, chosen=None, error: BaseException | None = None, **options):
    left = itertools.count(1)

    def on_step(_):
        if next(left) == steps:
            raise error or Killed

    with pytest.raises(type(error) if error else Killed):
        run_item(chosen or study(), out, key, on_step=on_step, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run_item(study(), out)
    return content(out)


FAST_STEPS = (1, EVERY, EVERY + 1, STEPS)
EACH_STEP = others_slow(range(1, STEPS + 1), *FAST_STEPS)


@pytest.mark.parametrize("steps", EACH_STEP)
def test_kill_after_any_step_resumes_to_identical_results(tmp_path, whole, steps):
    kill(tmp_path, steps)
    seen = []
    assert run_item(study(), tmp_path, on_step=seen.append).status == "done"
    assert content(tmp_path) == whole
    assert seen[0] == EVERY * ((steps - 1) // EVERY) + 1


@pytest.mark.parametrize("name", others_slow(known_entries(), *known_entries()[::7]))
def test_every_method_resumes_to_identical_results(tmp_path, name):
    chosen, key = study(name), f"run/{name}/0"
    run_item(chosen, tmp_path / "whole", key)
    kill(tmp_path / "out", 7, key=key, chosen=chosen)
    run_item(chosen, tmp_path / "out", key)
    assert content(tmp_path / "out", key) == content(tmp_path / "whole", key)


@pytest.mark.parametrize(
    ("module", "place", "nth"),
    [
        *((execution_module, "append_line", nth) for nth in (1, 2, 5)),  # initial, first of three intervals, end
        *(pytest.param(execution_module, "append_line", nth, marks=pytest.mark.slow) for nth in (3, 4)),
        (checkpoint_file, "write", 1),
        pytest.param(checkpoint_file, "write", 2, marks=pytest.mark.slow),
    ],
)
def test_kill_at_any_write_resumes_to_identical_results(tmp_path, whole, module, place, nth):
    with killed_at(module, place, nth):
        run_item(study(), tmp_path)
    run_item(study(), tmp_path)
    assert content(tmp_path) == whole


def test_interrupted_item_keeps_its_intervals(tmp_path, whole):
    kill(tmp_path, 7, error=Interrupted("stop"))
    assert [epoch["steps"] for epoch in record(tmp_path).epochs] == [5]
    run_item(study(), tmp_path)
    assert content(tmp_path) == whole
    assert [line["epochs"] for line in record(tmp_path).resumed] == [1]


def test_finished_item_is_not_trained_again(tmp_path):
    first = run_item(study(), tmp_path)
    path = StudyFolder(tmp_path).item_record(KEY)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    assert run_item(study(), tmp_path, on_step=lambda _: pytest.fail("a step was taken")) == first
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(path.parent.iterdir()) == [path]


def test_failed_item_is_not_trained_again(tmp_path):
    calls = []

    def build(seed):
        calls.append(seed)
        if len(calls) == 2:  # the first problem is that of the settings
            raise ValueError("broken")
        return build_with_test(seed)

    chosen = study(task=with_test(build=build))
    assert run_item(chosen, tmp_path).status == "failed"
    assert run_item(chosen, tmp_path).status == "failed"
    assert len(calls) == 2


def test_failure_of_a_resumed_item_is_recorded(tmp_path):
    kill(tmp_path, 7)
    calls = []

    def build(seed):
        calls.append(seed)
        if len(calls) == 2:
            raise ValueError("broken")
        return build_with_test(seed)

    assert run_item(study(task=with_test(build=build)), tmp_path).status == "failed"
    assert not StudyFolder(tmp_path).checkpoint("adam", 0).exists()
    assert [run.status for run in StudyFolder(tmp_path).runs()] == ["failed"]


@pytest.mark.parametrize("steps", [7, STEPS + 1])
def test_record_of_other_settings_is_replaced(tmp_path, steps):
    """If the storage is lost, a sampler may suggest other values for a trial that has a record."""
    chosen, key, folder = study(budget=2, sampler="tpe"), "trial/adam/1", StudyFolder(tmp_path)
    folder.prepare(chosen.settings(), None)

    def kill_at(done):
        if done == steps:
            raise Killed

    with suppress(Killed):
        execute(chosen, plan(chosen, key, {}, {"lr": 0.01}), folder, on_step=kill_at)
    assert record(tmp_path, key).status == ("done" if steps > STEPS else "unfinished")
    execute(chosen, plan(chosen, key, {}, {"lr": 0.02}), folder)
    run = record(tmp_path, key)
    assert (run.status, run.header["values"], run.resumed) == ("done", {"lr": 0.02}, [])


def test_pruner_sees_the_scores_of_all_sessions(tmp_path):
    chosen, key = study(budget=1), "trial/adam/0"
    seen: list[list[int]] = [[], [], []]

    def prune_into(number):
        return lambda step, _: bool(seen[number].append(step))

    run_item(chosen, tmp_path / "whole", key, prune=prune_into(0))
    kill(tmp_path / "out", 12, key=key, chosen=chosen, prune=prune_into(1))
    run_item(chosen, tmp_path / "out", key, prune=prune_into(2))
    assert seen == [[5, 10], [5, 10], [5, 10]]


def test_pruned_trial_resumes_if_its_end_was_not_written(tmp_path, monkeypatch):
    chosen, key = study(budget=1), "trial/adam/0"

    def prune(step, _):
        return step == 5

    run_item(chosen, tmp_path / "whole", key, prune=prune)
    real = execution_module.append_line

    def kill_at_end(path, line):
        if '"end"' in line:
            raise Killed
        real(path, line)

    with monkeypatch.context() as patch:
        patch.setattr(execution_module, "append_line", kill_at_end)
        with pytest.raises(Killed):
            run_item(chosen, tmp_path / "out", key, prune=prune)
    ended = run_item(chosen, tmp_path / "out", key, prune=lambda step, _: step == 10)
    assert (ended.status, len(record(tmp_path / "out", key).loss)) == ("pruned", 10)


def test_full_disk_leaves_the_item_unfinished(tmp_path, monkeypatch, whole):
    real, count = os.fsync, itertools.count(1)

    def full(descriptor):
        if next(count) > 6:  # enough for study.json and its folder, header, first evaluation and one interval
            raise OSError(28, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device; completed results are kept"):
            run_item(study(), tmp_path)
    assert record(tmp_path).status == "unfinished"
    run_item(study(), tmp_path)
    assert content(tmp_path) == whole
