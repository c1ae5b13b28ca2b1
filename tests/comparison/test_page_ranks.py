"""Ranks, names and labels on pages: the same as in the terminal, distinct if shortened, without overlaps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from results_support import case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.page import ranking as ranking_module
from dashpot.comparison.page import row_charts
from dashpot.comparison.page.pairs import words
from dashpot.comparison.page.profile import lead, ordered
from dashpot.comparison.page.ranking import ranking as section
from dashpot.comparison.page.scales import Scale
from dashpot.comparison.page.view import View, shortened
from dashpot.comparison.table import ranking
from dashpot.figures.method_styles import styles_for


def view_of(found):
    return View(found, styles_for([method.name for method in found.methods]))


@pytest.mark.parametrize("name", ["everything", "plain", "tied", "one diverged", "missing runs"])
def test_ranks_agree_with_the_terminal(name):
    found = judge(case(name))
    table = section(view_of(found)).html.split("<tbody>")[1]
    shown = re.findall(r"</th><td>(.*?)</td>", table)
    assert shown == [row.rank.replace("-", "–") for row in ranking(found)]


def test_uncertain_methods_are_not_in_the_best_group_of_an_overview():
    found = judge(case("everything"))
    assert view_of(found).ranks["adagrad"] == "?"
    views = [view_of(found), view_of(judge(replace(case("everything"), task="second")))]
    assert lead(views) == "In the best tie group on 2 of 2 tasks: adamw."
    assert ordered(views)[-2:] == ["heavy-ball", "adagrad"]


def test_shortened_names_are_distinct():
    names = {f"adamw:weight_decay=0.01,lr=0.{i:04}" for i in range(100)}
    assert len({shortened(name, 18) for name in names}) == 100
    assert max(len(shortened(name, 18)) for name in names) == 18


def test_many_seeds_are_not_a_number():
    [pair] = judge(results(methods=("adam", "sgd"), gap=0.0)).pairs
    assert words(replace(pair, verdict="undecided", more_seeds=201)) == "undecided: over 200 more seeds"
    assert words(replace(pair, verdict="undecided", more_seeds=14)) == "undecided: about 14 more seeds"


def test_short_logarithmic_axes_have_several_ticks():
    assert [label for _, label in Scale(0.8, 1.25, 0, 1, log=True).ticks()] == [".8", ".9", "1.0", "1.1", "1.2"]


@pytest.mark.parametrize(("low", "high"), [(1e6, 1e6 + 0.1), (0.0, 1e-6), (1e-31, 9e-31), (-1e30, 1e30), (0.87, 0.88)])
def test_ticks_have_distinct_short_labels(low, high):
    labels = [label for _, label in Scale(low, high, 0, 1).ticks()]
    assert len(set(labels)) == len(labels) >= 2
    assert max(map(len, labels)) <= 11


def test_long_words_wrap_and_long_scores_have_space():
    page = section(view_of(judge(results(methods=("adam", "sgd"), metric="loss", gap=1e9)))).html
    [width] = set(re.findall(r'"box":\[[\d.]+,[\d.]+,([\d.]+),', page.split("narrow")[0]))
    assert float(width) < 772


@pytest.mark.parametrize(
    ("rows", "dots", "methods", "seeds"),
    [(4, 10, 6, 3), pytest.param(row_charts.ROWS, ranking_module.MOST_DOTS, 42, 12, marks=pytest.mark.slow)],
)
def test_drawings_of_a_ranking_agree_on_single_seeds(monkeypatch, rows, dots, methods, seeds):
    """The first drawing has more scores than the limit (12, 480), and the second has fewer (6, 24)."""
    monkeypatch.setattr(row_charts, "ROWS", rows)
    monkeypatch.setattr(ranking_module, "ROWS", rows)
    monkeypatch.setattr(ranking_module, "MOST_DOTS", dots)
    names = [f"method-{index}" for index in range(methods)]
    text = section(view_of(judge(results(methods=names, seeds=seeds)))).html
    assert text.count("<figure") == 2
    assert 'class="seed"' not in text
    assert "single seeds" not in text
