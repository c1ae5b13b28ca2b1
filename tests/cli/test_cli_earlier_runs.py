"""Run folders from before validation data were held out: the same task without `validation_size`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import interrupt_at, refused, same_weights

from dashpot.comparison import read_run
from dashpot.training.run.inference import evaluate_run
from dashpot.training.run.resume import trained_on_all

WORDS = ("digits", "--optimizer", "sgd", "--lr", 0.1, "--threads", 1, "--batch-size", 300, "--epochs", 2)


def earlier_run(dashpot, monkeypatch, name: str) -> None:
    """Interrupt a run on all training data in its second epoch, and remove the option from its settings."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7)
        assert dashpot("train", *WORDS, "--task-options", "validation_size=0", "--out", name)[0] == 130
    file = Path(name, "run.toml")
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("validation_size")]
    assert len(kept) == len(lines) - 1
    file.write_text("".join(kept))


def test_resume_on_other_data_raises(dashpot, monkeypatch):
    earlier_run(dashpot, monkeypatch, "run")
    before = Path("run/run.jsonl").read_bytes()
    sentence = refused(dashpot("train", "--resume", "run"))
    assert "task.validation_size: saved nothing, current 300" in sentence
    assert "--override --task-options validation_size=0" in sentence
    assert Path("run/run.jsonl").read_bytes() == before


@pytest.mark.slow
def test_options_of_the_message_resume_on_the_same_data(dashpot, monkeypatch):
    dashpot("train", *WORDS, "--task-options", "validation_size=0", "--out", "uninterrupted")
    earlier_run(dashpot, monkeypatch, "run")
    assert dashpot("train", "--resume", "run", "--override", "--task-options", "validation_size=0")[0] == 0
    assert same_weights("uninterrupted", "run")


def test_evaluation_of_an_earlier_run_does_not_use_its_training_data(dashpot, monkeypatch):
    earlier_run(dashpot, monkeypatch, "run")
    with pytest.warns(UserWarning, match="task.validation_size: saved nothing, current 300"):
        found = evaluate_run(Path("run"))
    assert found.means == read_run(Path("run/run.jsonl")).epochs[0]["eval"], "the 297 test digits, as during the run"


def test_own_task_with_a_new_setting_of_this_name_is_an_ordinary_change():
    config = {"validation_size": 3}
    assert trained_on_all("digits", {}, config)
    assert not trained_on_all("digits", {"validation_size": 0}, config)
    assert not trained_on_all("mine.py:build", {}, config)


def test_evaluate_prints_the_means_over_the_test_data(dashpot):
    assert dashpot("train", *WORDS, "--out", "run")[0] == 0
    code, out, _ = dashpot("evaluate", "run", "--split", "test", "--json")
    assert code == 0
    assert '"split":"test"' in out.splitlines()[-1].replace(" ", "")
    code, out, _ = dashpot("predict", "run", "--split", "test", "--out", "outputs.csv")
    assert code == 0
    assert "Split test, 297 rows" in out
    dashpot("train", *WORDS, "--task-options", "validation_size=0", "--out", "all")
    sentence = refused(dashpot("evaluate", "all", "--split", "test"))
    assert "Unknown split 'test'" in sentence
