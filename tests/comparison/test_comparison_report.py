"""Report of a study folder: a page and a summary, generated only from the records."""

from __future__ import annotations

import html
import re
import shutil

import pytest
import torch
from study_support import diverging, finished, study, toy

from dashpot.comparison import Entry, Interrupted, Study, StudyProgress, run_study, write_report
from dashpot.errors import RunError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    entries = (*study("sgd", "adam", "autosgm-3", schedule="cosine").entries, diverging())
    command = "dashpot compare toy --seeds 2 # </script><b>&"
    run_study(Study(toy(), entries, (0, 1), 3, evaluate_every=6), out, command=command)
    return out


@pytest.fixture(scope="module")
def text(folder):
    return write_report(folder).read_text(encoding="utf-8")


def test_report_has_recipe_and_panel_of_every_method(text):
    plain = html.unescape(text)
    for name in ("sgd", "adam", "autosgm-3", "too-fast"):
        assert f'<b title="{name}">' in text
    assert "dashpot.Adam(model.parameters(), lr=0.05, schedule=Cosine(steps=12" in plain
    assert "MomentRate(" in plain
    assert "torch.optim.sgd" not in plain
    assert "torch.optim.SGD(model.parameters(), lr=1e+30)" in plain
    assert "too-fast: 2 of 2 runs diverged" in plain
    assert "too-fast" in (plain.partition("<h2")[0] + plain)


def test_report_escapes_the_command(text):
    assert "</script><b>" not in text
    assert "dashpot compare toy --seeds 2 # &lt;/script&gt;&lt;b&gt;&amp;" in text


def test_report_rebuilt_from_records_is_identical(folder, text, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copytree(folder / "runs", copy / "runs")
    shutil.copy(folder / "study.json", copy)
    assert write_report(copy).read_text(encoding="utf-8") == text
    assert (copy / "summary.md").read_text() == (folder / "summary.md").read_text()


def test_report_of_unfinished_study_states_the_missing_runs(tmp_path):
    class Stop(StudyProgress):
        def step(self, steps_done):
            if steps_done == 9:
                raise Interrupted

    with pytest.raises(Interrupted):
        run_study(study("adam", "sgd"), tmp_path / "out", progress=Stop())
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "The comparison is incomplete: 0 of 2 runs have ended." in page


def test_task_without_evaluation_and_metrics_is_scored_by_training_loss(tmp_path):
    def bare(seed):
        problem = toy().build(seed)
        problem.metrics, problem.evaluation = {}, None
        return problem

    plain = Study(toy(build=bare, target=None), (Entry("sgd", torch.optim.SGD, 0.1),), (0,), 2)
    run_study(plain, tmp_path / "out")
    page = write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert re.search(r"<th scope=.col.>train loss</th>", page)


def test_report_of_only_diverged_runs_states_the_lack_of_a_result(tmp_path):
    run_study(Study(toy(), (diverging(),), (0,), 2), tmp_path / "out")
    assert "there is no result" in write_report(tmp_path / "out").read_text(encoding="utf-8")


def test_write_report_rejects_missing_study_and_study_without_records(tmp_path):
    with pytest.raises(RunError, match="is not a comparison"):
        write_report(tmp_path / "nowhere")
    finished(tmp_path / "out", epochs=1)
    for path in (tmp_path / "out" / "runs").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="has no records to report"):
        write_report(tmp_path / "out")


def test_missing_jinja2_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(RunError, match=r"Pages need jinja2: pip install"):
        write_report(folder)
