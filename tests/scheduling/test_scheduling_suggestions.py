"""Suggested settings and pruning."""

import pytest

from dashpot.scheduling.dimension import Dimension
from dashpot.scheduling.storage import open_storage
from dashpot.scheduling.work_items import WorkItem
from dashpot.scheduling.work_queue import WorkQueue

SPACE = {"lr": Dimension(1e-4, 1.0, log=True), "momentum": Dimension(0.5, 0.99)}


@pytest.fixture
def make(tmp_path):
    """Return a function that opens a queue of 16 trials in a journal."""
    opened = []

    def make(name="study", **options):
        storage = open_storage(tmp_path / f"{name}.journal")
        queue = WorkQueue(storage, "digits", {}, tmp_path, **options)
        queue.add(WorkItem(f"trial/adam/{number}", "adam") for number in range(16))
        opened.append(queue)
        return queue

    yield make
    for queue in opened:
        queue.close()


def params(queue, claim):
    return queue._storage.call(lambda base: base.get_trial(claim._trial)).params


def test_given_values_are_recorded_as_parameters(make):
    queue = make()
    claim = queue.claim()
    given = {"lr": 0.01, "momentum": 0.9, "epochs": 3}
    assert claim.suggest(SPACE, given) == given
    assert params(queue, claim) == pytest.approx({"lr": 0.01, "momentum": 0.9}, rel=1e-12)  # log and exp of Optuna
    assert claim.finish("done", 0.5, {})
    assert queue.outcomes()[claim.key].values == given


def test_given_value_outside_the_range_is_an_outcome_but_no_parameter(make):
    """Trial 0 has the default settings of a method, which a search space need not contain."""
    queue = make()
    claim = queue.claim()
    assert claim.suggest(SPACE, {"lr": 3.0, "momentum": 0.9}) == {"lr": 3.0, "momentum": 0.9}
    assert params(queue, claim) == {"momentum": 0.9}


def best_of_queue(queue, suggest):
    """Finish all trials of a quadratic problem with its maximum at lr = 0.1; return the suggested rates."""
    rates = []
    while claim := queue.claim():
        values = suggest(claim)
        rates.append(values["lr"])
        assert claim.finish("done", -abs(values["lr"] - 0.1), {})
    return rates


def test_tpe_suggests_values_in_range_that_depend_only_on_the_trials(make):
    first, second = (best_of_queue(make(name), lambda claim: claim.suggest(SPACE)) for name in ("one", "two"))
    assert first == second
    assert len(set(first)) == 16
    assert all(1e-4 <= rate <= 1.0 for rate in first)


def test_tpe_learns_from_given_and_diverged_trials(make):
    """After ten trials, the sampler concentrates on the better half of the range."""
    queue = make()
    while claim := queue.claim():
        number = int(claim.key.rsplit("/", 1)[1])
        rate = claim.suggest(SPACE, {"lr": 10 ** (-number / 4), "momentum": 0.9} if number < 10 else None)["lr"]
        is_stable = rate < 0.3
        claim.finish("done" if is_stable else "diverged", rate if is_stable else 0.0, {})
    rates = [queue.outcomes()[f"trial/adam/{number}"].values["lr"] for number in range(10, 16)]
    assert sum(rate > 0.01 for rate in rates) >= 4  # at random, half of the logarithmic range


def test_item_of_ended_worker_keeps_its_values(make):
    queue = make()
    claim = queue.claim()
    values = claim.suggest(SPACE)
    claim.release()
    again = queue.claim()
    assert again.key == claim.key
    assert again.suggest(SPACE) == values
    assert params(queue, again) == pytest.approx(values, rel=1e-12)  # log and exp of Optuna


@pytest.mark.parametrize("direction", ["max", "min"])
def test_median_pruner_ends_trials_worse_than_the_median(make, direction):
    queue = make(pruner="median", direction=direction)
    sign = 1 if direction == "max" else -1
    for number in range(5):
        claim = queue.claim()
        claim.report(10, sign * number)
        assert not claim.should_prune()
        claim.finish("done", sign * number, {})
    good, bad = queue.claim(), queue.claim()
    good.report(10, sign * 3.0)
    bad.report(10, sign * 1.0)
    assert (good.should_prune(), bad.should_prune()) == (False, True)
    assert bad.finish("pruned", sign * 1.0, {})
    assert queue.outcomes()[bad.key].status == "pruned"


def test_no_pruner_never_prunes_and_non_finite_reports_are_ignored(make):
    claim = make().claim()
    claim.report(0, float("nan"))
    claim.report(10, -1e9)
    assert not claim.should_prune()
