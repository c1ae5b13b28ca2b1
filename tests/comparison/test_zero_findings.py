"""Findings, sentences, tables and page of grids of zeros."""

from __future__ import annotations

import math

import pytest
from zero_support import FACTS, cell, grid

from dashpot.comparison.zero_cells import Grid
from dashpot.comparison.zero_findings import edge_cells, grid_findings, overfitting
from dashpot.comparison.zero_page import grid_page
from dashpot.comparison.zero_table import markdown_summary, table_cells, text_summary
from dashpot.comparison.zero_words import sentences, summary
from dashpot.figures import render_page

DIFFERENCES = {"0": -0.1, "0.47": 0.1, "0.9": 0.0, "none": -0.1}


def test_verdicts_follow_the_differences_of_a_loss():
    found = grid_findings(grid(DIFFERENCES))
    kinds = {item.zero: item.verdict.kind for item in found.contrasts}
    assert (kinds["0"], kinds["0.47"], kinds["none"]) == ("better", "worse", "better")
    assert kinds["0.9"] in ("equivalent", "undecided")
    assert found.named("better", 1) == ["0", "none"]


def test_verdicts_of_an_accuracy_have_the_opposite_sign():
    facts = {**FACTS, "metric": "accuracy", "direction": "max"}
    found = grid_findings(grid(DIFFERENCES, facts=facts))
    assert found.named("worse", 1)[:1] == ["0"]
    assert "0.47" in found.named("better", 1)


def test_summary_names_the_zeros_of_decided_comparisons():
    text = summary([grid_findings(grid(DIFFERENCES))])
    assert "numerator 1 (partial correlation) is better in 2, worse in 1" in text
    assert "Better: digits at 0 and no filter. Worse: digits at .47." in text


def test_validation_data_select_the_zero():
    found = grid_findings(grid(DIFFERENCES))
    assert {choice.numerator: choice.cell.validation for choice in found.choices}.keys() == {0, 1}
    assert found.choices[1].zero in ("0", "none")
    assert found.choice_difference.high < 0


def test_overfitting_is_the_loss_after_the_best_evaluation():
    own = cell(1, "0", [1.0, 1.2, 1.1])
    found = overfitting(Grid("digits", "cpu", FACTS, (own,)), own)
    assert found == pytest.approx((0.01, 40, 0.2))


def test_overfitting_of_an_accuracy_is_the_fall_from_the_best():
    facts = {**FACTS, "direction": "max"}
    own = cell(1, "0", [0.9] * 3, best=(0.95,) * 3)
    assert overfitting(Grid("digits", "cpu", facts, (own,)), own).lost == pytest.approx(0.05)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_gap_is_that_of_the_judged_data(split):
    found = grid_findings(grid(DIFFERENCES, facts={**FACTS, "split": split}))
    [line] = [line for line in sentences(found) if "minus training loss" in line]
    assert line.startswith(f"{split.capitalize()} loss minus training loss at the end")


def test_selected_rates_at_the_edges_are_named():
    cells = (cell(0, "0", [1.0, 1.1, 1.2], lr=0.01), cell(1, "0", [1.0, 1.1, 1.2], lr=0.1), cell(1, "0.9", [1.0] * 3))
    found = Grid("digits", "cpu", FACTS, cells)
    assert [edge for _, edge in edge_cells(found)] == ["lowest", "highest"]
    [line] = [line for line in sentences(grid_findings(found)) if "shared rates" in line]
    assert "the lowest for numerator 0 in 1 of 1 cell and the highest for numerator 1 in 1 of 2 cells" in line


def test_lost_advantage_is_counted_by_best_and_last_evaluations():
    early = {"best": (0.8,) * 3}
    cells = (cell(0, "0", [1.0, 1.1, 1.2]), cell(1, "0", [1.3, 1.4, 1.5], **early))
    lines = sentences(grid_findings(Grid("digits", "cpu", FACTS, cells)))
    assert any(
        "better mean at 1 of 1 zero by the best evaluations of the runs, and at 0 by the last" in line for line in lines
    )


def test_irregular_runs_are_counted_and_one_seed_has_no_verdict():
    facts = {**FACTS, "seeds": [0]}
    cells = (
        cell(0, "0", [1.0]),
        cell(1, "0", [None]),
        cell(0, "0.9", [2.3], status=("diverged",)),
        cell(1, "0.9", [1.0]),
    )
    found = grid_findings(Grid("digits", "cpu", facts, cells))
    lines = sentences(found)
    assert any(
        "1 of 4 runs diverged and have the score of the untrained model: numerator 0, zero .9." in x for x in lines
    )
    assert any("1 of 4 runs have not ended: numerator 1, zero 0." in line for line in lines)
    assert lines[-1] == "One seed allows no interval and no verdict."
    assert [item.verdict.kind for item in found.contrasts] == ["undecided", "undecided"]


def test_grid_without_a_constant_numerator_has_no_contrast():
    found = grid_findings(Grid("digits", "cpu", FACTS, (cell(1, "0", [1.0, 1.1, 1.2]),)))
    assert found.contrasts == ()
    assert "no numerator to compare" in summary([found])
    assert len(table_cells(found)[0]) == 2


def test_table_has_a_row_per_zero_with_scores_rates_and_verdicts():
    header, rows = table_cells(grid_findings(grid(DIFFERENCES)))
    assert header == ["zero", "numerator 0", "numerator 1", "difference of 1", "verdict"]
    assert [row[0] for row in rows] == ["0", ".47", ".9", "no filter"]
    assert rows[0][1].endswith("(.03)")
    assert " ±" in rows[0][1]
    assert (rows[0][3][0], rows[1][3][0]) == ("-", "+")


def test_text_and_markdown_contain_every_sentence():
    findings = [grid_findings(grid(DIFFERENCES))]
    for text in (text_summary(findings), markdown_summary(findings)):
        joined = " ".join(text.split())
        assert all(line in joined for line in (*sentences(findings[0]), summary(findings)))


@pytest.mark.slow
def test_page_has_a_figure_per_workload_and_is_small():
    findings = [grid_findings(grid(DIFFERENCES)), grid_findings(Grid("wikitext", "cpu", FACTS, grid({"0": 0.2}).cells))]
    text = render_page(grid_page(findings, "dashpot reproduce autosgm"))
    assert text.count("<figure") == 2
    assert "Published claim" in text
    assert len(text) < 150_000


def test_intervals_hold_jointly():
    """The half-width of four differences exceeds that of one."""
    many = grid_findings(grid(DIFFERENCES)).contrasts[0].difference
    one = grid_findings(Grid("digits", "smoke", FACTS, grid(DIFFERENCES).cells[:2])).contrasts[0].difference
    assert many.estimate == one.estimate
    assert math.isfinite(many.high)
    assert one.method == "Student t with Bonferroni"
