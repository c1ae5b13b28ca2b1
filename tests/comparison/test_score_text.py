"""Numbers of a report: very small and very large scores, and agreement of terminal, Markdown, page and raw data."""

from __future__ import annotations

import csv
import html
import io
import math
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from results_support import CASES, case, results
from slow_values import others_slow

from dashpot.comparison.judge import judge
from dashpot.comparison.page.download import archive
from dashpot.comparison.page.writing import render_page
from dashpot.comparison.results import JudgedRun, Results, ScoreRule
from dashpot.comparison.table import markdown_summary, ranking, text_summary, text_table


def scored(scores, names=("adam", "sgd", "nag"), *, direction="min"):
    """Return results with given scores of shape (methods, seeds)."""
    rule = ScoreRule("loss", direction, "test")
    runs = [JudgedRun(n, s, "done", float(v)) for n, row in zip(names, scores, strict=True) for s, v in enumerate(row)]
    return Results("task", "", rule, tuple(names), tuple(range(len(scores[0]))), tuple(runs))


SCORES = np.array([1.0, 2.0, 5.0])[:, None] + 0.2 * np.random.default_rng(0).normal(size=(3, 5))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-8, 1e-5, 1e8, 1e30])
def test_scores_of_all_magnitudes_have_their_digits(scale):
    found = judge(scored(SCORES * scale))
    for row, method in zip(ranking(found), found.methods, strict=True):
        mean, half = row.score.split(" +-")
        assert float(mean) == pytest.approx(method.mean.estimate, rel=0.02)
        assert float(half) == pytest.approx((method.mean.high - method.mean.low) / 2, rel=0.05)
    assert f"test loss {ranking(found)[0].score.split()[0]}, ahead" in found.headline


def test_scores_of_different_magnitudes_have_their_digits():
    found = judge(scored(np.array([[1e-12], [1e-6], [1.0]]) * (1 + 0.1 * SCORES)))
    assert all(float(row.score.split(" +-")[0]) > 0 for row in ranking(found))
    assert float(ranking(found)[1].difference) == pytest.approx(1.2e-6, rel=0.2)


def test_small_differences_of_large_scores_are_shown():
    found = judge(scored(1e6 + 0.01 * SCORES))
    assert [row.score.split()[0] for row in ranking(found)] == ["1000000.0101", "1000000.0203", "1000000.0483"]


FAST = ("plain", "minimized", "one seed", "one diverged", "missing runs", "all failed", "html")
FAST += ("looks", "clear", "no margin", "two seeds", "twenty seeds", "one run", "validation", "train")  # only here
SHOWN = [name for name in CASES if name != "no runs" and not name.startswith("many")]


@pytest.mark.parametrize("name", others_slow(SHOWN, *FAST))
def test_numbers_agree_in_terminal_markdown_and_page(name):
    found = judge(case(name))
    page = html.unescape(render_page([found])).replace("\N{MINUS SIGN}", "-")
    table = page.split('<table class="ranking">')[1].split("</table>")[0]
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in table.splitlines() if "<td>" in line]
    text, markdown = text_table(found, width=300), markdown_summary(found)
    for row, shown in zip(ranking(found), cells, strict=True):
        assert row.score in text
        assert row.score.replace("+-", "±") in markdown
        assert found.results.rule.target is None or row.steps == "-" or row.steps.replace("/", " of ") in shown
        if "+-" in row.score:
            assert set(row.score.split(" +-")) <= set(shown)
        assert row.difference in shown or not row.difference


@pytest.mark.parametrize("name", ["everything", "minimized", "missing runs"])
def test_raw_data_contain_the_pairs_and_scores_of_the_findings(name):
    found = judge(case(name))
    with zipfile.ZipFile(io.BytesIO(archive([found]))) as file:
        rows = {
            part: list(csv.DictReader(io.StringIO(file.read(f"{part}.csv").decode()))) for part in ("runs", "pairs")
        }
    for pair, row in zip(found.pairs, rows["pairs"], strict=True):
        assert (row["better"], row["other"], row["verdict"]) == (pair.better, pair.other, pair.verdict)
        assert float(row["difference"]) == pair.difference.estimate
    for method in found.methods:
        known = [float(row["score"]) for row in rows["runs"] if row["method"] == method.name and row["score"]]
        assert known == [score for score in method.scores if math.isfinite(score)]


@pytest.mark.parametrize("studies", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_percent_signs_are_not_apart_from_their_numbers(studies):
    for seed in range(studies):
        text = text_summary(judge(results(seed=seed, gap=2.0)))
        assert "% interval" in text
        assert not re.search(r"^\s*%", text, re.MULTILINE)


def test_steps_to_target_are_whole_numbers():
    made = case("two seeds")
    found = judge(replace(made, runs=tuple(replace(run, steps_to_target=12_345_678.0) for run in made.runs)))
    assert {row.steps for row in ranking(found)} == {"12345678"}


def test_markdown_shows_names_with_formulas_and_markup_as_they_are():
    found = judge(scored(SCORES, names=("$a_1$", "~~b~~", "*c*")))
    assert all(text in markdown_summary(found) for text in (r"\$a_1\$", r"\~\~b\~\~", r"\*c\*"))
