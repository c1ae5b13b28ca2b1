"""Intervals, verdicts, texts and running of experiments."""

import math
import statistics
from dataclasses import replace

import pytest
import torch

from dashpot import experiments, names
from dashpot.errors import ArgumentError
from dashpot.experiments import FAILS, HOLDS, HOLDS_WITH_LIMITS, Claim, Finding, Outcome, Panel, compared, mean_interval
from dashpot.experiments.intervals import geometric_interval
from dashpot.experiments.page import page
from dashpot.experiments.text import outcome_text
from dashpot.figures import new_figure
from dashpot.utils.student import t_quantile

QUANTILES = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 7: 2.3646, 9: 2.2622, 19: 2.0930, 100: 1.9840, 1000: 1.9623}


@pytest.mark.parametrize(("degrees", "expected"), QUANTILES.items())
def test_t_quantile_equals_the_table(degrees, expected):
    assert t_quantile(degrees) == pytest.approx(expected, abs=5e-5)  # four printed decimals


def test_mean_interval_covers_the_mean_in_95_percent_of_samples():
    samples = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)).tolist()
    covered = [mean_interval(values).low <= 0 <= mean_interval(values).high for values in samples]
    assert statistics.fmean(covered) == pytest.approx(0.95, abs=0.021)  # three standard errors of 1000 samples


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_mean_interval_without_two_finite_values_raises(values):
    with pytest.raises(ArgumentError, match="values must"):
        mean_interval(values)


def test_geometric_interval_is_that_of_the_logarithms():
    mean, low, high = geometric_interval([1.0, 10.0, 100.0])
    half = 4.3027 / 3**0.5  # table of Student's quantiles, standard deviation of the decimal logarithms 1
    assert (mean, low, high) == pytest.approx((10.0, 10 ** (1 - half), 10 ** (1 + half)), rel=1e-4)


@pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, -1.0]])
def test_geometric_interval_of_numbers_that_are_not_positive_raises(values):
    with pytest.raises(ArgumentError, match="values must be positive"):
        geometric_interval(values)


def test_compared_holds_within_interval_and_tolerance():
    values = [1.0, 1.01, 0.99]
    assert compared("a", "a", values, 1.001).holds
    assert not compared("a", "a", values, 1.1).holds
    assert compared("a", "a", values, 1.1, tolerance=0.08).holds


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([(True, "", 0), (True, "", 1)], HOLDS),
        ([(True, "for small rates", 0), (True, "", 0)], HOLDS_WITH_LIMITS),
        ([(False, "", 0), (True, "", 0)], FAILS),
        ([(False, "", 0), (True, "", 1)], HOLDS_WITH_LIMITS),
    ],
)
def test_verdict_of_follows_from_claims(findings, expected):
    made = [Finding("f", "f", 1.0, 1.0, 1.0, None, holds, limits, claim) for holds, limits, claim in findings]
    assert experiments.verdict_of(made) == expected


def test_outcome_text_shows_claims_numbers_and_verdict():
    findings = (
        Finding("a", "variance", 0.0526, 0.05, 0.055, 0.0526),
        Finding("b", "steps", 12.0, 12.0, 12.0, None, False, "", 1),
    )
    outcome = Outcome((Claim("slides", "first"), Claim("lesson", "second")), findings, HOLDS_WITH_LIMITS, "Reason.")
    text = outcome_text(outcome)
    assert str(outcome) == repr(outcome) == text
    for part in (
        "Claim (slides): first",
        "0.0526, 0.05 to 0.055",
        "does not hold here",
        "Verdict: holds with limits.",
    ):
        assert part in text


def test_page_places_figures_below_their_claims():
    def draw():
        return new_figure("test")[0]

    findings = (Finding("a", "a", 1.0, 0.9, 1.1), Finding("b", "b", 1.0, 0.9, 1.1, None, False, "", 1))
    panels = (Panel("last", "Last", "Note.", draw, claim=1), Panel("first", "First", "Note.", draw))
    claims = (Claim("slides", "one"), Claim("slides", "two"))
    outcome = Outcome(claims, findings, HOLDS_WITH_LIMITS, "Reason.", panels, name="averages")
    titles = [section.title for section in page(outcome, "command").sections]
    assert titles == [
        "Claim 1: holds",
        "First",
        "Claim 2: does not hold here",
        "Last",
        "Settings and software",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "avreages"}, "Unknown experiment 'avreages': did you mean 'averages'"),
        ({"seeds": 1}, "run: seeds must be an integer in [2, inf), got 1"),
        ({"seed": -1}, "run: seed must be an integer in [0, 4.29497e+09], got -1"),
        ({"seed": 2**32 - 1}, "run: seed + seeds - 1 must be an integer"),
        ({"quick": 1}, "run: quick must be one of False, True, got 1"),
    ],
)
def test_run_with_invalid_arguments_raises(arguments, message):
    with pytest.raises(ArgumentError) as error:
        experiments.run(**{"name": "averages", **arguments})
    assert message in str(error.value)


def test_run_sets_name_and_settings_and_reports_progress(monkeypatch):
    from dashpot.experiments import averages, progress

    def fake(seeds, *, quick):
        list(progress.tracked(seeds, "seed"))
        return Outcome((), (), HOLDS, str(torch.get_num_threads()))

    monkeypatch.setattr(averages, "run", fake)
    lines = []
    outcome = experiments.run("averages", seeds=2, seed=3, quick=True, progress=lines.append)
    assert outcome == replace(
        outcome, name="averages", reason="1", settings={"seeds": [3, 4], "quick": True}, verdict=HOLDS
    )
    assert lines == ["seed 1/2", "seed 2/2"]


@pytest.mark.parametrize("name", names.EXPERIMENTS)
def test_every_experiment_resolves(name):
    assert callable(names.load(names.EXPERIMENTS[name].path))
