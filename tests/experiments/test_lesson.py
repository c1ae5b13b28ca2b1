"""The experiment `lesson`: published numbers, order, and the outcome."""

import pytest
from outcome_checks import check_outcome, check_page

from dashpot import experiments
from dashpot.experiments import lesson


def found(shift=0.0, noise=0.0001):
    """Return accuracies equal to the published ones, with three seeds."""
    ends = {key: lesson.published(key) for key in ("A1", *lesson.ROWS)}
    return {
        key: [[end + shift * (key == "G") + noise * (seed - 1) * (1 if key in "BDF" else -1)] for seed in range(3)]
        for key, end in ends.items()
    }


def test_published_accuracies_and_order_hold_for_runs_equal_to_them():
    outcome = lesson.outcome_of(found())
    check_outcome(outcome)
    assert all(item.holds for item in outcome.findings if item.claim == 0)
    by_name = {item.name: item for item in outcome.findings}
    assert by_name["G-F"].measured == pytest.approx(by_name["G-F"].predicted)
    assert by_name["G-F"].limits == ""


def test_difference_whose_interval_contains_zero_is_undecided():
    by_name = {item.name: item for item in lesson.order_findings(found(noise=0.02))}
    assert by_name["F-E"].limits.startswith("undecided")
    assert by_name["F-E"].holds


def test_reversed_order_and_distant_accuracy_do_not_hold():
    outcome = lesson.outcome_of(found(shift=-0.05))
    by_name = {item.name: item for item in outcome.findings}
    assert not by_name["accuracy-G"].holds
    assert not by_name["G-F"].holds
    assert by_name["accuracy-F"].holds


@pytest.mark.slow
def test_lesson_continues_row_a1_by_a2_and_its_page_is_small(tmp_path):
    outcome = experiments.run("lesson", seeds=2, quick=True)
    accuracy = outcome.data["accuracy"]
    assert accuracy["A1"] == [values[:3] for values in accuracy["A2"]]
    check_outcome(outcome)
    check_page(outcome, tmp_path)
