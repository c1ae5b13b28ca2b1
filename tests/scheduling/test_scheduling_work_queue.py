"""Work queue: claims, outcomes, order, groups, takeover of items of ended workers."""

import math
import os

import optuna
import pytest

from dashpot.errors import ArgumentError, RunError
from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.trials import OUTCOME, new_outcome
from dashpot.scheduling.work_items import Outcome, WorkItem
from dashpot.scheduling.work_queue import WorkQueue

ITEMS = [WorkItem("trial/adam/0", "adam"), WorkItem("run/adam/0", "runs"), WorkItem("run/adam/1", "runs")]
KEYS = [item.key for item in ITEMS]


@pytest.fixture
def storage(tmp_path):
    with open_storage(tmp_path / "study.journal") as found:
        yield found


@pytest.fixture
def make(storage, tmp_path):
    """Return a function that opens the queue as a further worker."""
    opened = []

    def make(items=ITEMS, **options):
        options = {"settings": {"epochs": 3}, "folder": tmp_path, **options}
        queue = WorkQueue(storage, "digits", **options)
        queue.add(items)
        opened.append(queue)
        return queue

    yield make
    for queue in opened:
        queue.close()


def die(queue):
    """End a worker without any clean-up, as SIGKILL does: no further heartbeat, and its lock is released."""
    queue._heartbeat.stop()
    queue._claims.clear()
    if queue._lock._descriptor is not None:
        os.close(queue._lock._descriptor)
        queue._lock._descriptor = None


def claimed(queue, **options):
    claim = queue.claim(**options)
    assert claim is not None
    return claim


def test_claims_follow_the_order_of_items(make):
    queue = make()
    keys = []
    while claim := queue.claim():
        keys.append(claim.key)
        assert claim.finish("done", 0.5, {})
    assert keys == KEYS


def test_two_workers_claim_different_items(make):
    first, second = make(), make()
    assert [claimed(first).key, claimed(second).key, claimed(first).key] == KEYS
    assert first.claim() is None
    assert second.claim() is None


def test_item_that_is_not_ready_is_skipped(make):
    queue = make()
    assert claimed(queue, ready=lambda key: key.startswith("run")).key == "run/adam/0"
    assert queue.claim(lambda key: False) is None


def test_finish_records_the_outcome_for_all_workers(make):
    queue, other = make(), make()
    claim = claimed(queue)
    claim.suggest({}, {"lr": 0.1})
    assert other.outcomes() == {}
    assert claim.finish("done", 0.875, {"record": "line\n", "steps": [1, 2]})
    expected = Outcome("trial/adam/0", "done", 0.875, {"lr": 0.1}, {"record": "line\n", "steps": [1, 2]})
    assert other.outcomes() == {"trial/adam/0": expected}


@pytest.mark.parametrize("status", ["done", "diverged", "failed", "pruned"])
@pytest.mark.parametrize("score", [0.25, None, math.inf, math.nan])
def test_every_status_and_score_is_an_outcome(make, status, score):
    queue = make()
    assert claimed(queue).finish(status, score, {"error": "<b>text</b>"})
    found = make().outcomes()["trial/adam/0"]
    assert (found.status, found.data) == (status, {"error": "<b>text</b>"})
    assert found.score == score or (score != score and found.score != found.score)


def test_finished_queue_is_opened_with_its_outcomes(make):
    queue = make()
    while claim := queue.claim():
        claim.finish("done", 0.5, {})
    assert sorted(make().outcomes()) == sorted(KEYS)
    assert make().claim() is None


def test_claim_and_finish_append_three_entries(make, tmp_path):
    """Each entry is flushed to disk, which takes most of the time of a claim."""
    queue = make()
    before = (tmp_path / "study.journal").read_bytes().count(b"\n")
    claimed(queue).finish("done", 0.5, {})
    assert (tmp_path / "study.journal").read_bytes().count(b"\n") == before + 3


def test_outcomes_of_a_finished_queue_do_not_read_the_storage(make, storage):
    queue = make()
    while claim := queue.claim():
        claim.finish("done", 0.5, {})
    assert len(queue.outcomes()) == 3
    storage.call = None
    assert len(queue.outcomes()) == 3
    del storage.call


def test_release_gives_the_item_back(make):
    queue, other = make(), make()
    claim = claimed(queue)
    claim.release()
    assert claimed(other).key == claim.key


def test_close_gives_items_back(make):
    queue, other = make(), make()
    claim = claimed(queue)
    queue.close()
    assert claimed(other).key == claim.key


def test_item_of_ended_worker_is_claimed_at_once(make):
    queue, other = make(), make()
    claim = claimed(queue)
    assert other.claim(lambda key: key == claim.key) is None
    die(queue)
    assert claimed(other).key == claim.key


def test_item_of_worker_without_folder_is_claimed_after_the_lease(make):
    queue, other = make(folder=None), make()
    now = [0.0]
    other._watch._clock = lambda: now[0]
    claim = claimed(queue)
    die(queue)
    for now[0] in (0.0, 15.0, 30.0, 45.0):
        assert other.claim(lambda key: key == claim.key) is None
    now[0] = 60.0
    assert claimed(other).key == claim.key


def test_renewed_lease_keeps_the_item(make):
    queue, other = make(folder=None), make()
    now = [0.0]
    other._watch._clock = lambda: now[0]
    claim = claimed(queue)
    for now[0] in range(0, 600, 15):
        queue._renew()
        assert other.claim(lambda key: key == claim.key) is None
    assert claim.finish("done", 0.5, {})


def taken_over(queue, other, key):
    """Let another worker take over the item of a suspended worker."""
    other._watch.is_over = lambda trial, lease: True
    claim = other.claim(lambda found: found == key)
    assert claim is not None
    del other._watch.is_over
    return claim


def test_worker_that_lost_its_item_drops_its_outcome(make):
    queue, other = make(), make()
    slow = claimed(queue)
    fast = taken_over(queue, other, slow.key)
    assert fast.finish("done", 0.75, {"worker": "fast"})
    assert not slow.finish("done", 0.5, {"worker": "slow"})
    assert slow.is_lost
    assert make().outcomes()[slow.key].data == {"worker": "fast"}


def test_worker_that_lost_its_item_drops_its_outcome_before_the_other_has_finished(make):
    queue, other = make(), make()
    slow = claimed(queue)
    fast = taken_over(queue, other, slow.key)
    slow.report(1, 0.5)
    assert not slow.finish("done", 0.5, {"worker": "slow"})
    slow.release()
    assert fast.finish("done", 0.75, {"worker": "fast"})
    assert make().outcomes()[slow.key].data == {"worker": "fast"}


def test_heartbeat_notices_a_lost_item(make):
    queue, other = make(), make()
    claim = claimed(queue)
    taken_over(queue, other, claim.key)
    queue._renew()
    assert claim.is_lost


def test_outcome_written_before_death_is_delivered(make, storage):
    queue, other = make(), make()
    claim = claimed(queue)
    outcome = new_outcome(claim.key, "done", 0.5, {"worker": "dead"})
    storage.call(lambda base: base.set_trial_user_attr(claim._trial, OUTCOME, outcome))
    die(queue)
    assert other.outcomes() == {}
    assert claimed(other).key == KEYS[1]
    assert other.outcomes()[KEYS[0]].data == {"worker": "dead"}


def test_outcome_delivered_by_an_observer_counts_as_finished(make, storage):
    queue, other = make(), make()
    claim = claimed(queue)
    outcome = new_outcome(claim.key, "done", 0.5, {"worker": "slow"})
    storage.call(lambda base: base.set_trial_user_attr(claim._trial, OUTCOME, outcome))
    other._watch.is_over = lambda trial, lease: True
    assert other.claim(lambda key: key == claim.key) is None
    assert claim.finish("done", 0.5, {"worker": "slow"})
    assert not claim.is_lost


def test_outcome_written_before_an_interrupt_is_kept_by_close(make, storage):
    queue, other = make(), make()
    claim = claimed(queue)
    claim._call = interrupted_after(claim._call)
    with pytest.raises(KeyboardInterrupt):
        claim.finish("done", 0.5, {"n": 1})
    queue.close()
    assert other.outcomes()[claim.key].data == {"n": 1}


def interrupted_after(call):
    """Return a function that works once and is interrupted at the second call."""
    calls = []

    def once(operation, default):
        if calls:
            raise KeyboardInterrupt
        calls.append(operation)
        return call(operation, default)

    return once


def test_interrupted_claim_of_the_same_worker_is_claimed_again(make):
    queue = make()
    claim = claimed(queue)
    queue._forget(claim._trial)  # as if an interrupt had hit `claim` before it returned
    assert claimed(queue).key == claim.key


def test_trial_with_the_lowest_number_keeps_the_item(make, storage):
    """Two workers that append a trial for the same item at the same time."""
    queue, other = make(), make()
    item = ITEMS[0]
    winner = queue._try(item)
    assert winner is not None
    assert other._try(item) is None
    assert winner.finish("done", 0.5, {})
    assert other._try(item) is None
    assert make().outcomes()[item.key].score == 0.5


def test_names_with_slashes_and_spaces_are_separate_studies(storage, tmp_path):
    with WorkQueue(storage, "a/b", {}, tmp_path) as nested, WorkQueue(storage, "a", {}, tmp_path) as outer:
        nested.add([WorkItem("one", "my file.py:f/g")])
        outer.add([WorkItem("one", "b"), WorkItem("two", "b/my file.py:f/g")])
        assert claimed(nested).finish("done", 1.0, {})
        assert outer.outcomes() == {}
        assert [claimed(outer).key, claimed(outer).key] == ["one", "two"]


def test_same_item_in_another_group_raises(make):
    with pytest.raises(ArgumentError, match=r"WorkQueue: run/adam/0 is in the group runs, got adam\."):
        make().add([WorkItem("run/adam/0", "adam")])


@pytest.mark.parametrize("option", [{"direction": "up"}, {"pruner": "hyperband"}, {"lease": 0.0}])
def test_invalid_option_raises(make, option):
    with pytest.raises(ArgumentError, match=f"WorkQueue: {next(iter(option))} must be"):
        make(**option)


def test_finish_with_unknown_status_or_data_raises(make):
    claim = claimed(make())
    with pytest.raises(ArgumentError, match="status must be one of 'done', 'diverged', 'failed', 'pruned'"):
        claim.finish("complete", 1.0, {})
    with pytest.raises(ArgumentError, match="data must be a mapping of JSON values"):
        claim.finish("done", 1.0, {"model": object()})
    assert claim.finish("done", 1.0, {})


def test_different_settings_raise_with_the_differences(make):
    make()
    with pytest.raises(RunError, match=r"with other settings: epochs: saved 3, current 4; seeds: saved nothing"):
        make(settings={"epochs": 4, "seeds": 5})


def test_foreign_optuna_study_raises(make, storage):
    study = storage.call(lambda base: base.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "digits"))
    storage.call(lambda base: base.create_new_trial(study))
    with pytest.raises(RunError, match=r"contains a study named digits that was not created by dashpot"):
        make()


@pytest.mark.parametrize(("found", "word"), [(0, "older format 0"), (2, "newer format 2"), ("x", "older format x")])
def test_other_format_raises(make, storage, found, word):
    make()
    study = storage.call(lambda base: base.get_study_id_from_name("digits"))
    storage.call(lambda base: base.set_study_user_attr(study, "dashpot format", found))
    with pytest.raises(RunError, match=f"in the {word}, this version uses format 1: "):
        make()


def test_lock_files_of_ended_workers_are_removed_after_the_last_item(make, tmp_path):
    ended, other = make(), make()
    claimed(ended)
    die(ended)
    while claim := other.claim():
        assert len(list((tmp_path / ".workers").glob("*.lock"))) == 2
        claim.finish("done", 0.5, {})
    other.outcomes()
    other.close()
    assert list((tmp_path / ".workers").glob("*.lock")) == []


def test_claim_interrupted_before_its_registration_is_free_after_close(make):
    """An interrupt between the trial in the storage and its registration leaves a trial without a living worker."""
    queue, other = make(), make()
    queue._new_claim = interrupt
    with pytest.raises(KeyboardInterrupt):
        queue.claim()
    assert other.claim(lambda key: key == KEYS[0]) is None
    queue.close()
    assert claimed(other).key == KEYS[0]


def interrupt(*arguments):
    raise KeyboardInterrupt
