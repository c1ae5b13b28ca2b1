"""Start and stop of studies: starts that fail, lost storages, and workers that do not stop."""

from __future__ import annotations

import dataclasses
import os
import threading

import pytest
from study_support import build, finished, study, toy

from dashpot.comparison import StudyFolder, run_study, worker_command
from dashpot.comparison.resume_text import resume_text
from dashpot.errors import RunError


def test_folder_of_a_start_that_failed_accepts_other_settings(tmp_path):
    with pytest.raises(RunError, match="must be a URL"):
        run_study(study(epochs=2), tmp_path / "out", storage="nonsense")
    assert not (tmp_path / "out" / "study.json").exists()
    assert len(run_study(study(epochs=1), tmp_path / "out")) == 1


def test_folder_with_records_survives_a_failed_start(tmp_path):
    finished(tmp_path / "out", epochs=1)
    with pytest.raises(RunError, match="must be a URL"):
        run_study(study(epochs=1), tmp_path / "out", storage="nonsense")
    assert len(StudyFolder(tmp_path / "out").runs()) == 1


def test_items_whose_outcomes_a_lost_storage_lacks_are_counted(tmp_path):
    finished(tmp_path, "adam", "sgd", epochs=1)
    text = resume_text(study("adam", "sgd", epochs=1), StudyFolder(tmp_path), (), "dashpot compare toy")
    assert text == f"{tmp_path} has 2 of 2 runs. Resume with: dashpot compare toy"


def test_worker_that_does_not_stop_ends_after_a_limit(monkeypatch):
    ended, codes = threading.Event(), []

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(worker_command, "STOP_LIMIT", 0.01)
    monkeypatch.setattr(worker_command.os, "_exit", end)
    reader, writer = os.pipe()
    requests = worker_command.Requests(reader)
    assert not requests.stop.is_set()
    os.close(writer)
    assert ended.wait(60)
    os.close(reader)
    assert (requests.stop.is_set(), codes) == (True, [130])


def test_failed_run_is_repeated_without_its_record_and_the_journal(tmp_path):
    broken = True

    def sometimes(seed):
        if seed == 1 and broken:
            raise FileNotFoundError("no data")
        return build(seed)

    given = dataclasses.replace(study(seeds=(0, 1), epochs=1), task=toy(build=sometimes))
    assert [run.status for run in run_study(given, tmp_path)] == ["done", "failed"]
    broken = False
    kept = (tmp_path / "runs" / "adam-seed0.jsonl").read_bytes()
    assert [run.status for run in run_study(given, tmp_path)] == ["done", "failed"]
    (tmp_path / "study.journal").unlink()
    (tmp_path / "runs" / "adam-seed1.jsonl").unlink()
    assert [run.status for run in run_study(given, tmp_path)] == ["done", "done"]
    assert (tmp_path / "runs" / "adam-seed0.jsonl").read_bytes() == kept
