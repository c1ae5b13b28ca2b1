"""Folders of `dashpot train` and `dashpot compare` interrupted under an earlier version resume to the same numbers."""

import json
import shutil
from pathlib import Path

import pytest
from stored_support import COMPARE, STORED, command, run_result, study_result

WHERE = "/stored/"
"""Folder in which the files were created; `run.toml` contains the path of the task file."""
REL = 1e-9
"""Tolerance for float64 sums in a different order on other processors, over at most 18 steps of a network."""

pytestmark = pytest.mark.filterwarnings("ignore:.*versions")  # versions of torch, numpy and Python, stored and current


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(STORED, tmp_path / "copy")
    settings = tmp_path / "copy" / "run" / "run.toml"
    settings.write_text(settings.read_text().replace(WHERE, f"{(tmp_path / 'copy').as_posix()}/"))
    monkeypatch.chdir(tmp_path / "copy")
    return Path()


def close(found, stored):
    """Return whether two values of plain data are equal, with tolerance `REL` for numbers."""
    if isinstance(stored, dict):
        return found.keys() == stored.keys() and all(close(found[key], value) for key, value in stored.items())
    if isinstance(stored, list):
        return len(found) == len(stored) and all(map(close, found, stored))
    return found == (pytest.approx(stored, rel=REL, abs=REL) if isinstance(stored, float) else stored)


def test_stored_run_resumes_to_the_stored_record_and_weights(folder, monkeypatch, capsys):
    lines = [json.loads(line)["kind"] for line in (folder / "run" / "run.jsonl").read_text().splitlines()]
    assert lines == ["header", "steps", "epoch", "steps", "epoch"]
    assert command(monkeypatch, "train --resume run") == 0
    assert close(run_result(folder / "run"), json.loads((folder / "run.json").read_text()))
    logs = [(folder / "run" / name).read_text().splitlines() for name in ("log.csv", "log.jsonl")]
    assert [len(lines) for lines in logs] == [4, 3]


def test_settings_of_the_stored_run_repeat_it(folder, monkeypatch, capsys):
    assert command(monkeypatch, "train --config run/run.toml --out again") == 0
    assert close(run_result(folder / "again"), json.loads((folder / "run.json").read_text()))


def test_stored_study_resumes_to_the_stored_records(folder, monkeypatch, capsys):
    assert sorted(path.name for path in (folder / "study" / "runs").iterdir()) == [
        "adam-seed0.ckpt",
        "adam-seed0.jsonl",
        "sgd-seed0.jsonl",
    ]
    finished = (folder / "study" / "runs" / "sgd-seed0.jsonl").read_bytes()
    assert command(monkeypatch, COMPARE) == 0
    assert close(study_result(folder / "study"), json.loads((folder / "study.json").read_text()))
    assert (folder / "study" / "runs" / "sgd-seed0.jsonl").read_bytes() == finished


def test_report_of_the_stored_study(folder, monkeypatch, capsys):
    assert command(monkeypatch, "report study") == 0
    assert "sgd" in (folder / "study" / "report.html").read_text()


@pytest.mark.parametrize("words", ["report study-format-1", COMPARE.replace("--out study", "--out study-format-1")])
def test_study_of_the_previous_format_is_rejected_unchanged(words, folder, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in (folder / "study-format-1").rglob("*") if path.is_file()}
    assert command(monkeypatch, words) == 2
    assert "was written by an older version of dashpot; use a new folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "study-format-1").rglob("*") if path.is_file()} == before
