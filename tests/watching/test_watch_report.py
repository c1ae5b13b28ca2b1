"""Reports: printed sentences, data, figures and pages."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
import record_examples as examples
import torch
from browser import drawn, needs_browser

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.figures import new_figure
from dashpot.runs.watch_file import WatchFile, read_watch_file
from dashpot.utils.strict_json import decode, encode
from dashpot.watching.report import MOST, report_of
from dashpot.watching.report_strips import COLUMNS, strips
from dashpot.watching.series import WatchRecord
from dashpot.watching.watch_figures import PANELS, available


@pytest.fixture(scope="module")
def report():
    return report_of(examples.complete(steps=300, count=6))


@pytest.fixture(scope="module")
def page(report):
    return report.page("dashpot watch runs/a --html a.html")


def test_report_prints_at_most_five_numbered_sentences(report):
    lines = str(report).splitlines()
    starts = [line for line in lines if re.match(r"\d\. ", line)]
    assert [line[0] for line in starts] == [str(index) for index in range(1, len(report.sentences) + 1)]
    assert max(map(len, lines)) <= 100
    assert len(report.sentences) == MOST
    assert report.more
    assert repr(report) == str(report)


def test_report_is_a_function_of_the_stored_record(report):
    stored = WatchRecord.of_dict(decode(encode(report.record.to_dict())))
    assert str(report_of(stored)) == str(report)


def test_report_of_the_file_of_a_run_is_equal(report, tmp_path):
    WatchFile(tmp_path / "watch.jsonl", report.record).start()
    assert str(report_of(read_watch_file(tmp_path / "watch.jsonl"))) == str(report)


def test_report_as_data_is_strict_json(report):
    data = json.loads(encode(report.to_dict()))
    assert [item["sentence"] for item in data["sentences"]] == [str(sentence) for sentence in report.sentences]
    assert data["step"] == 300
    assert data["newest"]["noise"]["batch"] == 64


def test_report_without_measurements_states_the_reasons():
    report = report_of(WatchRecord(examples.header(["a"])))
    assert str(report).startswith("Nothing has been measured.")
    assert "`closure`" in str(report)
    assert "Nothing has been measured." in report._repr_html_()
    assert len(report.plot().axes) == 1


def test_watcher_reports_a_run():
    layer = torch.nn.Linear(3, 1)
    with dp.watch(torch.optim.SGD(layer.parameters(), lr=0.1), layer, budget=1.0) as watcher:
        for _ in range(40):
            watcher.optimizer.zero_grad()
            loss = layer(torch.randn(8, 3)).square().mean()
            loss.backward()
            watcher.observe(loss)
            watcher.optimizer.step()
    report = watcher.report()
    assert "weight" in next(item.text for item in (*report.sentences, *report.more) if item.topic == "updates")


def test_page_of_one_measurement_is_self_contained():
    record = WatchRecord(examples.header(["a"]))
    record.add("noise", examples.noise(1, 300.0))
    record.add("noise", examples.noise(101, 310.0))
    text = report_of(record).page()
    assert re.findall(r"<h2 [^>]*>(.*?)</h2>", text)[:2] == ["Findings", "Noise"]
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(set(ids)) == len(ids)
    assert not re.findall(r"\b(?:src|href|srcset)=", text.replace("xlink:href", ""))


@pytest.mark.slow
def test_page_has_a_section_for_each_measurement(page):
    titles = re.findall(r"<h2 [^>]*>(.*?)</h2>", page)
    measured = ["Loss", "Stability", "Noise", "Norms", "Filter and rate", "Relative change of each tensor"]
    assert titles == ["Findings", *measured, "Warnings", "Cost of measurements", "Settings", "Command"]
    assert "Not measured" not in page
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(ids)) == len(ids)
    assert not re.findall(r"\b(?:src|href|srcset)=", page.replace("xlink:href", ""))


def test_page_lists_the_reasons_of_absent_figures():
    record = WatchRecord(examples.header(["a<b"]))
    record.add("noise", {"step": 1, "reason": "The batch has one example."})
    page = report_of(record).page()
    assert "<svg" not in page.partition("<script>")[0].replace('<svg class="swatch"', "")
    assert "<li>gradient noise scale: The batch has one example.</li>" in page
    assert "There is no curvature yet" in page


@pytest.mark.slow
def test_page_of_a_long_run_is_at_most_300_kilobytes():
    for every in (1, 4, 10):
        assert len(report_of(examples.complete(every=every)).page().encode()) < 300_000


def test_strips_show_each_tensor_once_and_escape_names():
    curves = {"a<b>": ([1, 11, 21], [1e-3, 2e-3, 4e-3]), "zero": ([1, 11, 21], [0.0, 0.0, 0.0])}
    text = strips(curves, "now")
    assert text.count("&lrm;a&lt;b&gt;</code>") == 1
    assert "<span>0.4 %</span>" in text
    widths = re.findall(r'aria-label="a&lt;b&gt;:[^>]*>(.*?)</svg>', text)
    assert sum(map(int, re.findall(r"h(\d+)v1", widths[0]))) == COLUMNS
    assert re.findall(r'aria-label="zero:[^>]*>(.*?)</svg>', text) == [""]


def test_panels_draw_on_given_axes(report):
    panels = available(report.record, PANELS)
    assert panels == list(PANELS)
    figure, axes = new_figure("test", columns=len(panels))
    assert report.plot(axes) is figure
    assert all(ax.lines for ax in axes)


def test_saved_figure_and_rejected_suffix(tmp_path):
    record = WatchRecord(examples.header(["a"]))
    for step in range(1, 100, 10):
        record.add("norms", {"step": step, "loss": 1.0 / step, "grad": 1.0, "tensors": {}})
    report = report_of(record)
    assert report.save(tmp_path / "watch.svg").read_bytes().startswith(b"<?xml")
    with pytest.raises(ArgumentError, match=r"must end with one of .*got '.*watch\.jpg'"):
        report.save(tmp_path / "watch.jpg")


@pytest.mark.slow
@needs_browser
def test_browser_reports_no_errors(page, tmp_path):
    assert drawn(page, tmp_path).count('class="tip"') > 0


@pytest.mark.slow
def test_example_watches_a_loop(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["watch_a_run.py"])
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "watch_a_run.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("1. ")
    measured = {kind for kind, rows in example["watcher"].record.series.items() if not (rows.last or {}).get("reason")}
    assert {"norms", "dynamics", "curvature", "noise", "cost"} <= measured


def test_facts_are_in_more_and_reasons_below_the_sentences():
    record = WatchRecord({**examples.header(["a"]), "steps": 100})
    record.add("cost", {"step": 90, "share": 0.01, "waiting": ["curvature"]})
    report = report_of(record)
    assert (report.sentences, [item.topic for item in report.more]) == ((), ["cost"])
    assert "No warning." in str(report)
    assert report.summary().startswith("No warning.")
    assert "raise <code>budget</code>." in report.page()
    reason = "No edge of stability: The budget has not covered a measurement of curvature yet: raise `budget`."
    assert reason in report.remarks()
