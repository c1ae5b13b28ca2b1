"""Coverage of the intervals of steps to a target and of tuning budgets, and errors of the log-rank test."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import comparison_survival as simulations
from comparison_survival import Cell


def test_simulated_studies_have_the_planted_ratio_misses_and_correlation():
    cell = Cell("Weibull", 0.3, 1.5, 0.5, 0.2, 20)
    found = simulations.simulate(cell, 1000, 0)
    a, b = found.steps[:, 0], found.steps[:, 1]
    # 20 000 runs: standard errors of .003 for the share and .005 for the median. Rounding adds half an interval.
    assert np.mean(a > found.budget * (1 + 1e-9)) == pytest.approx(0.2, abs=0.015)
    assert np.median(b - found.spacing / 2) == pytest.approx(1, abs=found.spacing / 2)
    assert np.mean(np.log(a / b)) == pytest.approx(np.log(1.5), abs=0.05)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("search", simulations.SEARCHES)
def test_true_best_of_one_is_the_distribution_itself(search):
    mean, median = simulations.true_best(simulations.SEARCHES[search], 2)
    scores = simulations.SEARCHES[search](np.random.default_rng(2), 100_000)
    # Five standard errors of 100 000 scores.
    assert mean[0] == pytest.approx(scores.mean(), abs=5 * scores.std() / 300)
    assert np.mean(scores < median[0]) == pytest.approx(0.5, abs=0.01)
    assert mean[1] > mean[0]


@pytest.mark.parametrize("misses", [0.0, 0.2])
def test_ratio_covers_in_100_studies(misses):
    """Of 100 intervals with a coverage of 95 %, at least 87 contain the ratio, with a probability of 99.8 %."""
    assert simulations.ratio_coverage(Cell("log-normal", 0.3, 1.5, 0.5, misses, 5), 100, 0).covered >= 87


def test_tables_have_a_row_for_each_condition():
    assert simulations.ratio_table(2, [2]).count("\n") == 1 + 24
    assert simulations.curve_table(2, [2, 3]).count("\n") == 1 + 2
    assert simulations.log_rank_table(2, [2]).count("\n") == 1 + 12
    assert simulations.budget_table(2, 4).count("\n") == 1 + 12


@pytest.mark.slow
@pytest.mark.parametrize("misses", simulations.MISSES)
@pytest.mark.parametrize("shape", simulations.SHAPES)
@pytest.mark.parametrize("seeds", simulations.SEEDS)
def test_ratio_covers_in_600_studies(shape, seeds, misses):
    """Limits of four standard errors (.9 %) around the coverage in the documentation."""
    found = simulations.ratio_coverage(Cell(shape, 0.3, 1.5, 0.5, misses, seeds), 600, 100)
    assert found.covered >= 91
    assert seeds < 10 or found.covered <= 99


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5])
@pytest.mark.parametrize("misses", simulations.MISSES)
@pytest.mark.parametrize("seeds", simulations.SEEDS)
def test_log_rank_keeps_its_level_in_1000_studies(seeds, misses, correlation):
    """The largest share of p-values of at most .05 is 5 %, plus four standard errors of .7 %."""
    assert simulations.log_rank_error(Cell("log-normal", 0.3, 1.0, correlation, misses, seeds), 1000, 100) <= 7.8


@pytest.mark.slow
@pytest.mark.parametrize("search", simulations.SEARCHES)
@pytest.mark.parametrize("trials", [8, 16])
def test_limits_of_the_best_cover_in_2000_searches(search, trials):
    """The coverage is at least 95 %; three standard errors are 1.5 %."""
    assert simulations.budget_coverage(search, trials, 2000, 100)["order statistics"].min() >= 93.5


@pytest.mark.slow
@pytest.mark.parametrize("shape", simulations.SHAPES)
@pytest.mark.parametrize("seeds", simulations.SEEDS)
def test_survival_limits_cover_in_4000_studies(shape, seeds):
    assert min(simulations.curve_coverage(shape, seeds, 4000, 100)) >= 93
