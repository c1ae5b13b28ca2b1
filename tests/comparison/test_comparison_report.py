"""The report: one file, self-contained, made from records only."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from comparison_support import diverging, finished, study, toy

from dashpot.comparison import Entry, Interrupted, Study, StudyProgress, run_study, write_report
from dashpot.errors import RunError

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Elements, their attributes and their text; fails on elements that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.open: list[str] = []
        self.key = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self.key = attributes.get("id") or ("" if tag == "script" else self.key)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text[self.key] = self.text.get(self.key, "") + data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    entries = (*study("sgd", "adam", "autosgm-3", schedule="cosine").entries, diverging())
    run_study(Study(toy(), entries, (0, 1), 3), out, command="dashpot compare toy --seeds 2 # </script><b>&")
    return out


@pytest.fixture(scope="module")
def text(folder):
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_loaded_from_outside(page, text):
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert name not in attributes, (tag, attributes)
        assert tag not in ("link", "iframe", "object", "embed", "img", "a")
    styles = "".join(re.findall(r"<style>.*?</style>", text, re.DOTALL))
    assert "@import" not in styles
    assert "url(" not in styles
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'")


def test_plotly_is_inside_exactly_once(text):
    assert len(re.findall(r"\* plotly\.js v\d", text)) == 1
    assert (
        len(re.findall(r"<script", text)) - text.count('"<script') <= 6
    )  # three data, plotly, ours; one in plotly's text


def test_every_method_has_its_row_its_recipe_and_its_switch(page, text):
    plain = html.unescape(text)
    for name in ("sgd", "adam", "autosgm-3", "too-fast"):
        assert ("button", name) in [(tag, a.get("data-method")) for tag, a in page.elements]
    assert "dashpot.Adam(model.parameters(), lr=0.05, schedule=Cosine(steps=12" in plain
    assert "MomentRate(" in plain
    assert "torch.optim.sgd" not in plain
    assert "torch.optim.SGD(model.parameters(), lr=1e+30)" in plain
    assert "Runs diverged: too-fast." in plain


def test_text_from_records_cannot_become_markup(page, text):
    assert "</script><b>" not in text
    assert "dashpot compare toy --seeds 2 # </script><b>&" in page.text["again"]


def test_records_inside_are_the_records_on_disk(page, folder):
    records = json.loads(page.text["records"])
    assert records.pop("study.json") == json.loads((folder / "study.json").read_text())
    assert records == {path.name: path.read_text() for path in (folder / "runs").iterdir()}
    assert len(records) == 8


def test_charts_are_strict_json_with_a_method_and_a_role_for_every_trace(page):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    figures = json.loads(page.text["figures"], parse_constant=refuse)
    assert list(figures) == ["accuracy", "train-loss", "other-loss", "lr"]
    ids = {a.get("id") for _, a in page.elements}
    for key, figure in figures.items():
        assert f"chart-{key}" in ids
        assert figure["data"]
        for trace in figure["data"]:
            assert trace["meta"]["method"] in ("sgd", "adam", "autosgm-3", "too-fast")
            assert trace["meta"]["role"] in ("line", "raw", "band", "diverged")


def test_it_is_rebuilt_from_records_alone(folder, text, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(folder / "runs", copy / "runs")
    shutil.copy(folder / "study.json", copy)
    assert write_report(copy).read_text(encoding="utf-8") == text
    assert (copy / "summary.md").read_text() == (folder / "summary.md").read_text()


def test_an_unfinished_study_is_reported_as_far_as_it_went(tmp_path):
    class Stop(StudyProgress):
        def step(self, steps_done):
            if steps_done == 9:
                raise Interrupted

    with pytest.raises(Interrupted):
        run_study(study("adam", "sgd"), tmp_path / "out", progress=Stop())
    page = Page(write_report(tmp_path / "out").read_text(encoding="utf-8"))
    assert "unfinished" in page.text["summary"]


def test_a_task_without_evaluation_or_accuracy_is_scored_by_its_training_loss(tmp_path):
    def bare(seed):
        problem = toy().build(seed)
        problem.metrics, problem.evaluation = {}, None
        return problem

    plain = Study(toy(build=bare, target=None), (Entry("sgd", torch.optim.SGD, 0.1),), (0,), 2)
    run_study(plain, tmp_path / "out")
    page = Page(write_report(tmp_path / "out").read_text(encoding="utf-8"))
    assert list(json.loads(page.text["figures"])) == ["loss", "train-loss", "lr"]
    assert "train loss" in page.text["summary"]


def test_only_diverged_runs_still_make_a_report(tmp_path):
    run_study(Study(toy(), (diverging(),), (0,), 2), tmp_path / "out")
    assert "No run has finished" in write_report(tmp_path / "out").read_text(encoding="utf-8")


def test_nothing_to_report_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match="holds no comparison"):
        write_report(tmp_path / "nowhere")
    finished(tmp_path / "out")
    for path in (tmp_path / "out" / "runs").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="holds no finished epoch yet"):
        write_report(tmp_path / "out")


@pytest.mark.slow
def test_a_browser_draws_every_chart_and_reports_no_error(folder, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine: the charts were not drawn")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=9000"]
    url = write_report(folder).resolve().as_uri()
    command = [browser, *options, f"--user-data-dir={tmp_path}", "--dump-dom", url]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert drawn.stdout.count('class="main-svg"') >= 4
    assert not [line for line in drawn.stderr.splitlines() if "CONSOLE" in line]
