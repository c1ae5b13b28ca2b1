"""Ranking tables of findings: 80 columns, alignment, Markdown, and cells of irregular studies."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from results_support import CASES, HTML, case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.score_text import names_text, score_decimals
from dashpot.comparison.table import markdown_summary, ranking, ranking_header, text_summary, text_table

FAST = [name for name in CASES if not name.startswith("many")]


@pytest.mark.parametrize("name", FAST)
def test_text_fits_80_columns_and_is_ascii(name):
    text = text_summary(judge(case(name)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.isascii()


def test_huge_numbers_fit_by_omitting_the_last_columns():
    made = case("minimized")
    made = replace(made, runs=tuple(replace(r, score=r.score * 1e30, steps_to_target=123456789.0) for r in made.runs))
    lines = text_table(judge(made)).splitlines()
    assert max(map(len, lines)) <= 80
    assert "rank  method" in lines[0]


def test_columns_are_aligned():
    lines = text_table(judge(case("everything"))).splitlines()
    dots = {re.search(r"\.\d{4} \+-", line).start() for line in lines[2:]}
    assert len(dots) == 1
    assert {line.index("CPU") + 8 for line in lines[:1]} == {len(line) for line in lines[2:]}


def test_long_names_end_in_an_ellipsis_and_are_complete_in_markdown():
    found = judge(case("long names"))
    assert re.search(r"^1 +adamw-with[a-z-]*\.\.\. ", text_table(found), re.MULTILINE)
    assert "| adamw-with-a-very-long-name-of-an-entry |" in markdown_summary(found)


def rows(name):
    return {row.name: row for row in ranking(judge(case(name)))}


def test_cells_of_a_regular_study():
    header, found = ranking_header(judge(case("plain"))), rows("plain")
    assert tuple(header) == ("rank", "method", "test accuracy", "to best", "verdict", "steps to .856", "CPU time")
    assert tuple(found["adamw"])[:5] == ("1", "adamw", ".8810 +-.0022", "", "")
    assert tuple(found["adam"])[2:] == (".8766 +-.0016", "-.0044", "worse", "600", "24.0 s")


def test_the_intervals_of_means_are_explained_below_the_table():
    found = judge(case("plain"))
    assert "+-: 95 % confidence interval of the mean." in text_summary(found)
    assert "±: 95 % confidence interval of the mean." in markdown_summary(found)
    assert "confidence interval of the mean" not in text_summary(judge(case("one seed")))


def test_differences_of_a_loss_are_positive_for_worse_methods():
    assert rows("minimized")["adam"].difference == "+.0131"


@pytest.mark.parametrize(
    ("name", "method", "cell"),
    [
        ("everything", "rmsprop", "800 (4/5)"),
        ("everything", "heavy-ball", "> 1200 (0/4)"),
        ("target nobody reaches", "adamw", "> 1200 (0/5)"),
        ("no target", "adamw", ""),
        ("missing runs", "sgd", "-"),
    ],
)
def test_steps_to_target(name, method, cell):
    assert rows(name)[method].steps == cell


@pytest.mark.parametrize(
    ("name", "method", "cell"), [("all failed", "sgd", "failed"), ("all unfinished", "sgd", "unfinished")]
)
def test_missing_score_is_explained(name, method, cell):
    assert (rows(name)[method].score, rows(name)[method].rank) == (cell, "-")


def test_method_without_runs_is_last():
    found = list(rows("missing runs").values())
    assert (found[-1].name, found[-1].score, found[-1].cpu) == ("sgd", "no run", "-")


def test_columns_without_content_are_omitted():
    lines = text_table(judge(case("no runs"))).splitlines()
    assert lines[0].split() == ["rank", "method", "test", "accuracy"]
    assert "steps" not in markdown_summary(judge(case("no target")))


def test_one_seed_has_no_half_width_and_no_verdicts():
    text = text_summary(judge(case("one seed")))
    assert "+-" not in text
    assert "undecided" not in text
    assert "* " not in text


def test_at_most_six_verdicts_are_listed():
    text = text_summary(judge(case("everything")))
    assert len(re.findall(r"^\* ", text, re.MULTILINE)) == 7
    assert "* And 30 further pairs, see the report." in text
    assert "further" not in text_summary(judge(case("plain")))


def test_markdown_escapes_names():
    text = markdown_summary(judge(case("html")))
    assert "<script>" not in re.sub(r"\\<", "", text)
    assert "| x\\|y |" in text
    assert text.startswith("# fashion-mnist: 3 methods compared\n")


def test_html_in_names_is_plain_text_in_a_terminal():
    assert HTML[0] in text_summary(judge(case("html")))


def test_escape_codes_in_names_are_shown():
    found = judge(results(methods=("a\x1b[31m", "b")))
    for text in (text_summary(found), markdown_summary(found)):
        assert "\x1b" not in text
        assert "\\x1b" in text


def test_markdown_table_has_a_row_per_method():
    lines = [line for line in markdown_summary(judge(case("everything"))).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9
    assert len({line.count(" | ") for line in lines if "--" not in line}) == 1


def test_decimals_follow_intervals_and_scores():
    assert score_decimals(judge(case("plain")).methods) == 4
    assert score_decimals(judge(results(noise=20.0)).methods) == 3  # half-widths of .1, scores of three digits
    assert score_decimals(judge(case("one seed")).methods) == 3
    assert score_decimals(judge(case("no runs")).methods) == 3


@pytest.mark.parametrize(("count", "text"), [(5, "a, b, c, d and e"), (6, "a, b, c, d and 2 others")])
def test_names_text(count, text):
    assert names_text(list("abcdefgh")[:count]) == text


def test_legend_explains_the_rank_of_methods_that_vary_too_much():
    unranked, ranked = judge(case("everything")), judge(case("plain"))
    assert "?" in [row.rank for row in ranking(unranked)]
    assert "?" not in [row.rank for row in ranking(ranked)]
    for summary in (text_summary, markdown_summary):
        assert "Rank ?: not separated" in " ".join(summary(unranked).split())
        assert "Rank ?" not in summary(ranked)
