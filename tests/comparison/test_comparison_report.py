"""Report: a self-contained file, generated only from the records."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from processes import LIMIT
from study_support import diverging, finished, study, toy

from dashpot.comparison import Entry, Interrupted, Study, StudyProgress, run_study, write_report
from dashpot.errors import RunError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Parser that collects the elements of a page with attributes and text, and checks the order of closing tags."""

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


def test_report_loads_nothing_external(page, text):
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


def test_report_is_small_without_its_records(page, text):
    assert len(text.encode()) - len(page.text["records"].encode()) < 300_000
    assert text.count("<script") == 3  # the records, the script of all pages, and the script of the report


def test_report_has_row_recipe_and_button_of_every_method(page, text):
    plain = html.unescape(text)
    for name in ("sgd", "adam", "autosgm-3", "too-fast"):
        assert ("button", name) in [(tag, a.get("data-toggle")) for tag, a in page.elements]
    assert "dashpot.Adam(model.parameters(), lr=0.05, schedule=Cosine(steps=12" in plain
    assert "MomentRate(" in plain
    assert "torch.optim.sgd" not in plain
    assert "torch.optim.SGD(model.parameters(), lr=1e+30)" in plain
    assert "Runs diverged: too-fast." in plain


def test_report_escapes_text_of_records(page, text):
    assert "</script><b>" not in text
    assert "dashpot compare toy --seeds 2 # </script><b>&" in page.text["reproduce"]


def test_report_embeds_the_records_on_disk(page, folder):
    records = json.loads(page.text["records"])
    assert records.pop("study.json") == json.loads((folder / "study.json").read_text())
    assert records == {path.name: path.read_text() for path in (folder / "runs").iterdir()}
    assert len(records) == 8


def test_charts_have_method_and_role_per_series(page):
    charts = ("chart-accuracy", "chart-train-loss", "chart-other-loss", "chart-lr")
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(set(ids)) == len(ids)
    series = [a for _, a in page.elements if a.get("data-series")]
    for chart in charts:
        assert {chart, f"{chart}-narrow", f"{chart}-adam"} <= set(ids)
    for attributes in series:
        assert attributes["data-series"] in ("sgd", "adam", "autosgm-3", "too-fast")
        assert attributes["data-role"] in ("values", "raw", "band", "diverged", "label")


def test_report_rebuilt_from_records_is_identical(folder, text, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(folder / "runs", copy / "runs")
    shutil.copy(folder / "study.json", copy)
    assert write_report(copy).read_text(encoding="utf-8") == text
    assert (copy / "summary.md").read_text() == (folder / "summary.md").read_text()


def test_report_of_unfinished_study_counts_unfinished_runs(tmp_path):
    class Stop(StudyProgress):
        def step(self, steps_done):
            if steps_done == 9:
                raise Interrupted

    with pytest.raises(Interrupted):
        run_study(study("adam", "sgd"), tmp_path / "out", progress=Stop())
    page = Page(write_report(tmp_path / "out").read_text(encoding="utf-8"))
    assert "unfinished" in page.text["summary"]


def test_task_without_evaluation_and_metrics_is_scored_by_training_loss(tmp_path):
    def bare(seed):
        problem = toy().build(seed)
        problem.metrics, problem.evaluation = {}, None
        return problem

    plain = Study(toy(build=bare, target=None), (Entry("sgd", torch.optim.SGD, 0.1),), (0,), 2)
    run_study(plain, tmp_path / "out")
    page = Page(write_report(tmp_path / "out").read_text(encoding="utf-8"))
    charts = [a["id"] for _, a in page.elements if re.fullmatch(r"chart-[a-z-]+-title", a.get("id") or "")]
    assert charts == [f"chart-{key}-title" for name in ("loss", "train-loss", "lr") for key in (name, f"{name}-narrow")]
    assert "train loss" in page.text["summary"]


def test_report_of_only_diverged_runs(tmp_path):
    run_study(Study(toy(), (diverging(),), (0,), 2), tmp_path / "out")
    assert "No run has finished" in write_report(tmp_path / "out").read_text(encoding="utf-8")


def test_write_report_rejects_missing_study_and_study_without_epochs(tmp_path):
    with pytest.raises(RunError, match="is not a comparison"):
        write_report(tmp_path / "nowhere")
    finished(tmp_path / "out")
    for path in (tmp_path / "out" / "runs").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="has no finished epoch"):
        write_report(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="requires Chromium")
def test_browser_draws_every_chart_without_errors(folder, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=9000"]
    url = write_report(folder).resolve().as_uri()
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path}", "--dump-dom", url]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert drawn.stdout.count('role="status"') == 2 * 4  # the readouts, which the script adds
    assert not [line for line in drawn.stderr.splitlines() if "CONSOLE" in line]
