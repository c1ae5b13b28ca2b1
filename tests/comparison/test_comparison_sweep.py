"""Learning-rate sweeps."""

from __future__ import annotations

import pytest

from dashpot.comparison.sweep import grid, sweep
from dashpot.errors import ArgumentError
from dashpot.tasks import get


def test_sweep_finds_best_lr_of_a_quadratic():
    task = get("quadratic")
    best, *others = sweep(task, "sgd", epochs=2)
    assert all(best.score <= other.score for other in others)
    tried = {trial.lr for trial in (best, *others)}
    place = next(k for k in range(-12, 12) if grid(k) == best.lr)
    assert {grid(place - 1), grid(place + 1)} <= tried


def test_sweep_lowers_lr_while_all_runs_diverge_up_to_max_runs():
    trials = sweep(get("rosenbrock"), "sgd", epochs=1, max_runs=3)
    assert len(trials) == 3
    deep = sweep(get("rosenbrock"), "sgd", epochs=1)
    assert abs(deep[0].score) < float("inf")


def test_sweep_breaks_ties_of_the_accuracy_by_the_loss():
    """One digit of validation has the accuracy 0 or 1, so that many rates are tied."""
    trials = sweep(get("digits", validation_size=1, batch_size=200), "sgd", epochs=1)
    assert len({trial.score for trial in trials}) < len(trials)
    assert trials == sorted(trials, key=lambda trial: (-trial.score, trial.loss))


@pytest.mark.parametrize("bad", [{"by": "luck"}, {"max_runs": 0}])
def test_sweep_rejects_invalid_arguments(bad):
    with pytest.raises(ArgumentError, match="sweep: "):
        sweep(get("quadratic"), "sgd", **bad)
