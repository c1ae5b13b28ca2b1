"""Study folder: settings, lock and files."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from study_support import finished, study, toy

from dashpot.comparison import Entry, Study, StudyFolder, entry, run_study, study_folder
from dashpot.errors import ArgumentError, RunError


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    out = tmp_path_factory.mktemp("complete") / "out"
    finished(out)
    return out


@pytest.fixture
def out(complete, tmp_path):
    """Return a copy of the folder of a complete study."""
    return shutil.copytree(complete, tmp_path / "out")


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (lambda: study("adam", epochs=4), "epochs: saved 3, current 4"),
        (lambda: study("adam", seeds=(0, 1)), r"seeds: saved \[0\], current \[0, 1\]"),
        (lambda: study("adam", "sgd"), "methods.sgd: saved nothing, current"),
        (lambda: study("sgd"), "methods.adam: saved .*, current nothing"),
        (lambda: study("adam", schedule="cosine"), "methods.adam: saved .*schedule=Cosine"),
        (
            lambda: Study(toy(config={"batch_size": 7}), study().entries, (0,), 3),
            "config.batch_size: saved 6, current 7",
        ),
        (lambda: Study(toy(), (entry("adam", "toy", lr=0.5),), (0,), 3), r"saved .*lr=0\.05\).*, current .*lr=0\.5\)"),
        (lambda: Study(toy(), study().entries, (0,), 3, threads=1), "threads: saved null, current 1"),
        (lambda: Study(toy(name="other"), study().entries, (0,), 3), 'task: saved "toy", current "other"'),
    ],
)
def test_folder_with_different_settings_is_rejected(out, other, named):
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=f"different settings: .*{named}.*Nothing was changed"):
        run_study(other(), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_recipe_difference_is_listed_only_if_calls_are_equal(out):
    with pytest.raises(RunError) as refused:
        run_study(Study(toy(), (entry("adam", "toy", lr=0.5),), (0,), 3), out)
    assert "recipes." not in str(refused.value)
    path = out / "study.json"
    stored = json.loads(path.read_text())
    stored["settings"]["recipes"]["adam"] = "Recipe(of an older version)"
    path.write_text(json.dumps(stored))
    with pytest.raises(RunError, match=r"recipes\.adam: saved .*older version"):
        finished(out)


def test_folder_with_other_files_is_rejected_unchanged(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"is not empty and has no study\.json"):
        finished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": {}}'])
def test_damaged_study_file_is_rejected(out, content):
    (out / "study.json").write_text(content)
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        finished(out)


@pytest.mark.needs_posix
def test_folder_locked_by_another_process_is_rejected(out, monkeypatch):
    monkeypatch.setattr(study_folder, "LOCK_WAIT", 0.1)
    code = "import sys, fcntl, os; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-S", "-c", code, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(RunError, match="Another process is using"):
                finished(out)
        finally:
            holder.communicate("\n")
    finished(out)


def test_unwritable_folder_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        finished(tmp_path / "file" / "out")


def test_folder_of_the_old_format_is_rejected_with_a_remedy(out):
    path = out / "study.json"
    old = {"format": 1, "command": None, "settings": {"task": "toy", "config": {}, "epochs": 3, "seeds": [0]}}
    path.write_text(json.dumps(old))
    message = r"older version of dashpot; use a new folder, or read it with the version that wrote it\.$"
    for read in (lambda: finished(out), StudyFolder(out).runs):
        with pytest.raises(RunError, match=message):
            read()
    assert json.loads(path.read_text()) == old


def test_folder_of_a_newer_format_is_rejected(out):
    path = out / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    with pytest.raises(RunError, match="was written by a newer version of dashpot; this version reads format 2"):
        finished(out)


def test_study_file_contains_names_and_no_password(tmp_path):
    command = "dashpot compare digits --storage postgresql://me:secret@host/db"
    StudyFolder(tmp_path / "out").prepare(study().settings(), command, {"task": "digits", "seeds": 3})
    assert "secret" not in (tmp_path / "out" / "study.json").read_text()
    stored = StudyFolder(tmp_path / "out").study()
    assert stored["names"] == {"task": "digits", "seeds": 3}
    assert stored["command"] == "dashpot compare digits --storage postgresql://me:***@host/db"


def test_second_process_may_prepare_the_folder_with_the_same_settings(tmp_path):
    StudyFolder(tmp_path / "out").prepare(study().settings(), "a")
    StudyFolder(tmp_path / "out").prepare(study().settings(), "b", {"task": "toy"})
    assert StudyFolder(tmp_path / "out").study()["command"] == "a"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budget": 2}, "tuning.budget: saved 0, current 2"),
        ({"evaluate_every": 2}, "evaluate_every: saved 1, current 2"),
        ({"margin": 0.1}, "score.margin: saved null, current 0.1"),
        ({"rate_seeds": 1}, r"rates.seeds: saved \[\], current \[0\]"),
    ],
)
def test_different_protocol_is_rejected(tmp_path, settings, named):
    StudyFolder(tmp_path / "out").prepare(study().settings(), None)
    with pytest.raises(RunError, match=f"different settings: .*{named}"):
        StudyFolder(tmp_path / "out").prepare(dataclasses.replace(study(), **settings).settings(), None)


def test_entry_names_are_safe_file_names(tmp_path):
    folder = StudyFolder(tmp_path)
    assert folder.record("adam", 1) == Path(tmp_path, "runs", "adam-seed1.jsonl")
    for name in ("", "a/b", "..", ".hidden", "a b", "a\0"):
        with pytest.raises(ArgumentError, match="Entry: name must consist of"):
            Entry(name, torch.optim.SGD, 0.1)


def test_folder_of_a_killed_start_is_accepted(tmp_path):
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / ".study.json.abc.part").write_text("{")
    assert len(finished(out, epochs=1)) == 1


def test_locked_empty_folder_is_rejected_unchanged(tmp_path):
    folder = StudyFolder(tmp_path / "out")
    folder.path.mkdir()
    with folder.locked(), pytest.raises(RunError, match="Another process"):
        StudyFolder(folder.path).prepare({"seeds": [0]}, None, wait=0)
    assert list(folder.path.iterdir()) == []


def test_only_one_of_two_concurrent_studies_gets_a_new_folder(tmp_path):
    """The second study waits for the lock, finds different settings, and writes nothing."""
    settings = study().settings()
    for attempt in range(15):
        folder, start, owners = StudyFolder(tmp_path / str(attempt)), threading.Barrier(2), []

        def prepare(seed, folder=folder, start=start, owners=owners):
            start.wait()
            with suppress(RunError):
                StudyFolder(folder.path).prepare({**settings, "seeds": [seed]}, None)
                owners.append(seed)

        threads = [threading.Thread(target=prepare, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(owners) == 1
        assert folder.study()["settings"]["seeds"] == owners
