"""Lock files and leases of workers."""

import os

import pytest

from dashpot.errors import RunError
from dashpot.scheduling import file_lock, worker_lock
from dashpot.scheduling.leases import LeaseWatch, new_lease
from dashpot.scheduling.worker_lock import WorkerLock

pytestmark = pytest.mark.needs_posix


@pytest.fixture
def make(tmp_path):
    """Return a function that creates a further worker of the same folder."""
    opened = []

    def make(folder=tmp_path):
        opened.append(WorkerLock(folder))
        return opened[-1]

    yield make
    for lock in opened:
        lock.close()


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def over(watch, clock, times, lease):
    """Return the answers of a watch at the given times."""
    found = []
    for clock.now in times:
        found.append(watch.is_over(1, lease))
    return found


def test_lock_of_living_worker_is_held_and_of_ended_worker_free(make):
    worker, observer = make(), make()
    assert not observer.has_ended(worker.worker, worker.host)
    worker.close(remove=False)
    assert observer.has_ended(worker.worker, worker.host)


def test_two_observers_at_the_same_time_agree(make):
    """An observer tests a lock by taking it; a second one must not mistake the first for the worker."""
    worker, observer = make(), make()
    worker.close(remove=False)
    descriptor = os.open(worker._folder / f"{worker.worker}.lock", os.O_RDONLY)
    assert file_lock.try_lock(descriptor, shared=True)
    assert observer.has_ended(worker.worker, worker.host)
    os.close(descriptor)


def test_worker_of_a_different_machine_or_folder_is_not_known_to_have_ended(make, tmp_path):
    worker, observer, elsewhere = make(), make(), make(tmp_path / "elsewhere")
    worker.close(remove=False)
    assert not observer.has_ended(worker.worker, "other machine")
    assert not elsewhere.has_ended(worker.worker, worker.host)


def test_one_worker_of_a_folder_claims_at_a_time(make, monkeypatch):
    monkeypatch.setattr(worker_lock, "_LONGEST_CLAIM", 0.05)
    first, second = make(), make()
    with first.claiming():
        descriptor = os.open(first._folder / "claiming", os.O_RDONLY)
        assert not file_lock.try_lock(descriptor)
        with second.claiming():  # after the limit without the lock, for example if the first worker is suspended
            pass
    assert file_lock.try_lock(descriptor)
    os.close(descriptor)


def test_folder_without_locks_leaves_leases(make, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(file_lock.fcntl, "flock", unsupported)
    worker, observer = make(), make()
    assert not observer.has_ended(worker.worker, worker.host)
    with worker.claiming():
        pass


def test_unwritable_folder_raises(tmp_path):
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(RunError, match="Cannot create the lock file"):
        WorkerLock(tmp_path / "file")


def test_lease_without_renewal_is_over_after_its_duration(make):
    clock = Clock()
    watch = LeaseWatch(make(None), 60.0, clock)
    assert over(watch, clock, [0, 14, 28, 42, 56, 59.9, 60], new_lease(make(None))) == [False] * 6 + [True]


def test_renewal_starts_the_duration_again(make):
    clock, worker = Clock(), make(None)
    watch = LeaseWatch(make(None), 60.0, clock)
    for count, start in enumerate(range(0, 300, 50)):
        assert not any(over(watch, clock, range(start, start + 50, 10), new_lease(worker, count)))


def test_pause_of_the_observer_counts_as_one_renewal_interval(make):
    """Both machines may have been suspended; the worker needs time to renew its lease."""
    clock = Clock()
    watch = LeaseWatch(make(None), 60.0, clock)
    lease = new_lease(make(None))
    assert over(watch, clock, [0, 10_000, 10_001, 10_015, 10_030], lease) == [False] * 5
    assert over(watch, clock, [10_044, 10_045], lease) == [False, True]


def test_free_lock_ends_a_lease_at_once(make):
    clock, worker = Clock(), make()
    watch = LeaseWatch(make(), 60.0, clock)
    assert over(watch, clock, [0, 1], new_lease(worker)) == [False, False]
    worker.close(remove=False)
    assert over(watch, clock, [1], new_lease(worker)) == [True]


def test_held_lock_without_renewal_is_over_as_its_worker_is_suspended(make):
    clock, worker = Clock(), make()
    watch = LeaseWatch(make(), 60.0, clock)
    assert over(watch, clock, [0, 15, 30, 45, 60], new_lease(worker)) == [False] * 4 + [True]
