"""The experiment `lr-decay`: cooling, schedules, and the outcome."""

import pytest
import torch
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import annealing, lr_decay


@pytest.mark.parametrize("share", lr_decay.COOLING.values())
def test_cooling_schedule_falls_to_its_last_factor_in_its_share_of_the_run(share):
    factors = lr_decay.cooling_schedule(share, 40).table(40)
    falling = round(40 * share)
    assert factors[falling:] == pytest.approx([lr_decay.COOLING_FACTOR] * (40 - falling))
    assert factors[:falling] == pytest.approx([lr_decay.COOLING_FACTOR ** (k / falling) for k in range(falling)])


def test_annealing_equals_plain_descent_with_the_falling_rate():
    [share] = annealing.share_in_deeper_well([0], 40, 8)
    draws = annealing.normal_noise("annealing", [0], 8)
    w = torch.ones(8, dtype=torch.float64)
    for step in range(40):
        rate = 0.04 * 0.01 ** (step / 40)
        w = w - rate * (w**3 - w + 0.1 + 4 * next(draws)[0])
    assert share == float((w < 0).double().mean())


@pytest.mark.slow
def test_slow_annealing_ends_in_the_deeper_well_more_often():
    fast, slow = (sum(annealing.share_in_deeper_well([0, 1], steps, 200)) / 2 for steps in (100, 4000))
    assert slow > fast + 0.2


@pytest.mark.slow
def test_lr_decay_outcome_is_consistent_and_its_figures_show_data(tmp_path):
    outcome = experiments.run("lr-decay", seeds=2, quick=True)
    check_outcome(outcome)
    check_page(outcome, tmp_path)
