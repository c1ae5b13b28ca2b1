"""Page of a comparison: content, escaping, size and structure for every kind of results."""

from __future__ import annotations

import base64
import csv
import functools
import html
import io
import json
import re
import time
import zipfile
from html.parser import HTMLParser

import pytest
from results_support import CASES, HTML, METHODS, case, results

from dashpot.comparison.judge import judge
from dashpot.comparison.page import render_page, write_page
from dashpot.comparison.page.download import archive
from dashpot.errors import ArgumentError, RunError

VOID = {"meta", "br"}
REQUESTS = ("src", "srcset", "action", "data", "poster")


class Parsed(HTMLParser):
    """Parser that collects the elements of a page, and checks the order of closing tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style", "metadata"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@functools.cache
def page_of(name: str) -> str:
    """Return the page of a case, rendered once for all tests."""
    return render_page([judge(case(name))])


@pytest.fixture(scope="module")
def text():
    return page_of("everything")


@pytest.fixture(scope="module")
def page(text):
    return Parsed(text)


LARGE = ("many methods", "many seeds")
ELSEWHERE = ("looks", "clear", "no margin", "two seeds", "twenty seeds", "one run", "validation", "train")
"""Cases whose page is a fast test of test_score_text.py."""
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in (*LARGE, *ELSEWHERE) else name for name in CASES]


@pytest.mark.parametrize("name", EACH)
def test_page_of_every_case_is_well_formed_and_loads_nothing(name):
    parsed = Parsed(page_of(name))
    ids = parsed.values("id")
    assert len(set(ids)) == len(ids)
    assert not [name for _, attributes in parsed.elements for name in attributes if name in REQUESTS]
    for link in parsed.values("href"):
        assert link.startswith("data:application/zip;base64,") or link[1:] in ids
    labels = set(parsed.values("aria-labelledby"))
    assert labels <= set(ids)
    numbers = " ".join(value for key in ("d", "x", "y", "x1", "x2", "cx", "cy") for value in parsed.values(key))
    assert not re.search("nan|inf|e[+-]", numbers)


def test_page_of_nine_methods_is_at_most_500_kilobytes(text):
    assert len(text.encode()) <= 500_000


def test_names_with_markup_are_escaped():
    text = page_of("html")
    assert HTML[0] not in text
    assert html.escape(HTML[0]) in text
    assert "<script>alert" not in text
    assert text.count("<script") == 2


@pytest.mark.parametrize("name", ["minimized", pytest.param("everything", marks=pytest.mark.slow)])
def test_equal_findings_result_in_equal_pages(name):
    assert render_page([judge(case(name))]) == page_of(name)


def test_methods_have_one_order_everywhere(page):
    order = [method.name for method in judge(case("everything")).methods]
    panels = [title for tag, attributes in page.elements if tag == "b" for title in [attributes.get("title")]]
    assert len(panels) % len(METHODS) == 0
    assert panels == order * (len(panels) // len(METHODS))


def test_values_of_the_charts_are_strict_json(text):
    found = re.findall(r"<metadata>(.*?)</metadata>", text)
    assert len(found) > 20
    for data in found:
        json.loads(html.unescape(data))


def test_download_contains_every_run_trial_and_pair(text):
    results = case("everything")
    [data] = re.findall(r'href="data:application/zip;base64,([^"]*)"', text)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(data))) as file:
        rows = {name: list(csv.DictReader(io.StringIO(file.read(name).decode()))) for name in file.namelist()}
    assert set(rows) == {"runs.csv", "curves.csv", "pairs.csv", "trials.csv", "rates.csv"}
    assert len(rows["runs.csv"]) == len(results.runs)
    assert len(rows["trials.csv"]) == len(results.trials)
    assert len(rows["rates.csv"]) == len(results.rate_runs)
    assert len(rows["pairs.csv"]) == 36
    assert rows["runs.csv"][0]["method"] == results.runs[0].method
    assert float(rows["runs.csv"][0]["score"]) == results.runs[0].score


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        ("no target", "Steps to the target"),
        ("plain", "Tuning"),
        ("plain", "Sensitivity"),
        ("one method", "Differences between methods"),
        ("no runs", "Score during training"),
    ],
)
def test_sections_without_data_are_omitted(name, absent):
    assert absent not in Parsed(page_of(name)).text


def test_target_that_no_run_reaches_has_no_chart():
    text = page_of("target nobody reaches")
    assert "No run reached the target" in text
    assert 'id="target"' not in text


def test_single_seed_has_no_interval():
    parsed = Parsed(page_of("one seed"))
    assert not [a for _, a in parsed.elements if a.get("class") == "interval"]
    assert not re.search(r"\binf", parsed.text)


def test_write_page_replaces_the_file_and_reports_unwritable_paths(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_page([judge(case("plain"))], path) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(RunError, match="Cannot write"):
        write_page([judge(case("plain"))], path / "page.html")


def test_page_without_findings_is_rejected():
    with pytest.raises(ArgumentError, match="at least one"):
        render_page([])


def axis_of(text: str, figure: str, axis: str = "x") -> tuple[float, float]:
    """Return the limits of an axis of the first drawing of a figure."""
    found = re.search(rf'<figure[^>]* id="{figure}">.*?<metadata>(.*?)</metadata>', text, re.DOTALL)
    assert found is not None
    low, high, _ = json.loads(html.unescape(found[1]))["axes"][0][axis]
    return low, high


def test_diverged_runs_do_not_stretch_the_axes():
    text = page_of("method diverges")  # sgd has the score of the untrained model, 0.1
    assert axis_of(text, "ranking")[0] > 0.85
    assert axis_of(text, "pairs")[0] > -0.05
    assert axis_of(text, "score", "y")[0] > 0.7
    assert "Arrows: values beyond the axis." in Parsed(text).text


def test_direction_of_better_scores_is_stated():
    assert "better \N{LEFTWARDS ARROW}" in page_of("minimized")
    assert "better \N{RIGHTWARDS ARROW}" in page_of("plain")


def test_page_of_several_tasks_has_overview_and_sections_of_each_task():
    plain, other = judge(case("plain")), judge(case("minimized"))
    parsed = Parsed(render_page([plain, other]))
    ids = parsed.values("id")
    assert len(set(ids)) == len(ids)
    assert {"overview-heading", "overview-profile", "t1-ranking", "t2-ranking", "t2-tuning"} <= set(ids)
    assert "In the best tie group on 2 of 2 tasks: adamw" in parsed.text
    assert "Steps to target relative to adamw" in parsed.text


@pytest.fixture(scope="module")
def fifteen():
    """Return the page of fifteen tuned methods."""
    names = [f"method-{index}" for index in range(15)]
    return render_page([judge(results(methods=names, seeds=3, trials=3))])


def test_panels_of_further_methods_are_folded(fifteen):
    text = fifteen
    assert "<summary>3 further methods</summary>" in text
    found = re.search(r'<figure class="panels" id="score">(.*?)</figure>', text, re.DOTALL)
    assert found is not None
    assert found[1].count('class="panel"') == 12


def test_number_of_methods_without_a_panel_is_stated(fifteen):
    found = re.search(
        r'<figure class="panels" id="tuning">.*?</figure>\s*<p class="note">(.*?)</p>', fifteen, re.DOTALL
    )
    assert found is not None
    assert found[1] == "Panels of 12 of 15 methods."


def test_methods_without_runs_have_no_panel():
    parsed = Parsed(page_of("missing runs"))
    assert "No curve of sgd: no run." in parsed.text
    assert "sgd" not in [attributes.get("title") for tag, attributes in parsed.elements if tag == "b"]


def test_folded_parts_without_content_are_omitted():
    text = page_of("all failed")
    assert "during training" not in text
    assert not re.search(r"</summary>\s*</details>", text)


def test_raw_data_of_large_studies_are_thinned():
    data = base64.b64encode(archive([judge(case("many seeds"))]))
    assert len(data) < 300_000


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_page_of_a_thousand_runs_is_written_in_seconds(name, tmp_path):
    findings = judge(case(name))
    start = time.process_time()
    write_page([findings], tmp_path / "page.html")
    assert time.process_time() - start < 10  # takes 1 s to 2 s
