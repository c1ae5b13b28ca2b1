"""`dashpot train --resume` with missing, damaged, foreign or unreadable checkpoints and records."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from cli_support import (
    WORDS,
    complete_run,
    contents,
    interrupt_at,
    interrupted_run,
    refused,
    remove_folder,
    same_weights,
)

from dashpot.comparison import read_run
from dashpot.errors import RunError
from dashpot.training.callbacks.checkpoints import latest
from dashpot.training.state import checkpoint_file


def remove_files(checkpoints: Path) -> None:
    for path in checkpoints.iterdir():
        path.unlink()


@pytest.mark.diagonal
@pytest.mark.parametrize("remove", [remove_folder, remove_files])
@pytest.mark.parametrize("more", [("--epochs", 5, "--override"), ("--keep", 1, "--override")])
def test_complete_run_without_checkpoints_is_not_restarted(dashpot, my_task, remove, more):
    folder = complete_run(dashpot, my_task, "--log", "csv")
    remove(folder / "checkpoints")
    before = contents(folder)
    sentence = refused(dashpot("train", "--resume", "a", *more))
    assert sentence == (
        "The checkpoints of a are missing, although its record run.jsonl shows that some were written; dashpot "
        "train --config a/run.toml starts a new run."
    )
    assert contents(folder) == before


@pytest.mark.parametrize("remove", [remove_folder, pytest.param(remove_files, marks=pytest.mark.slow)])
def test_run_of_two_epochs_without_checkpoints_is_not_restarted(dashpot, my_task, monkeypatch, remove):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 7, "--log", "csv")
    remove(folder / "checkpoints")
    before = contents(folder)
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


@pytest.mark.parametrize("remove", [pytest.param(remove_folder, marks=pytest.mark.slow), remove_files])
def test_run_resumed_in_its_first_epoch_without_checkpoints_is_not_restarted(dashpot, my_task, monkeypatch, remove):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 1)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert dashpot("train", "--resume", "a")[0] == 130
    remove(folder / "checkpoints")
    before = contents(folder)
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


def test_run_of_one_epoch_without_checkpoint_folder_is_not_restarted(dashpot, my_task, monkeypatch):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 4)
    remove_folder(folder / "checkpoints")
    assert "The checkpoints of a are missing" in refused(dashpot("train", "--resume", "a"))


def test_run_killed_before_its_first_checkpoint_is_restarted_and_its_record_copied(dashpot, my_task, monkeypatch):
    """This state cannot be distinguished from a run in its second epoch whose checkpoints were deleted."""
    dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "uninterrupted")

    def die(*_):
        raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write", die)
        with pytest.raises(MemoryError):
            dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "a")
    record = Path("a/run.jsonl").read_bytes()
    code, out, _ = dashpot("train", "--resume", "a")
    assert code == 0
    assert (
        "Restarting a, which has no checkpoint yet. The earlier record was copied to run-1.jsonl." in out.splitlines()
    )
    assert Path("a/run-1.jsonl").read_bytes() == record
    assert same_weights("uninterrupted", "a")


def test_run_killed_in_its_first_epoch_is_restarted(dashpot, my_task, monkeypatch):
    dashpot("train", my_task, *WORDS, "--epochs", 3, "--log", "csv", "--out", "uninterrupted")
    folder = interrupted_run(dashpot, my_task, monkeypatch, 1, "--log", "csv")
    remove_folder(folder / "checkpoints")
    _, out, _ = dashpot("train", "--resume", "a")
    assert "Restarting a, which has no checkpoint yet." in out.splitlines()
    assert same_weights("uninterrupted", "a")
    assert not Path("a/run-1.jsonl").exists()


def test_logs_without_record_are_left_unchanged(dashpot, my_task):
    folder = complete_run(dashpot, my_task, "--log", "csv")
    remove_folder(folder / "checkpoints")
    (folder / "run.jsonl").unlink()
    before = contents(folder)
    assert "a has logs, but its record run.jsonl is missing; dashpot train --con" in refused(
        dashpot("train", "--resume", "a")
    )
    assert contents(folder) == before


@pytest.mark.needs_posix
@pytest.mark.parametrize("finished", [True, False])
def test_unreadable_checkpoint_folder_raises(dashpot, my_task, monkeypatch, finished):
    folder = complete_run(dashpot, my_task) if finished else interrupted_run(dashpot, my_task, monkeypatch, 1)
    remove_folder(folder / "checkpoints")
    (folder / "checkpoints").symlink_to("checkpoints")  # a symlink loop, because root can read any folder
    before = (folder / "run.jsonl").read_bytes()
    sentence = refused(dashpot("train", "--resume", "a", "--keep", 2, "--override"))
    assert sentence == f"Cannot read a/checkpoints: {os.strerror(errno.ELOOP)}."
    assert (folder / "run.jsonl").read_bytes() == before


@pytest.mark.parametrize(("line", "where"), [(0, "it has no header"), (2, "at line 2")])
def test_damaged_record_error_has_the_repeat_command(dashpot, my_task, line, where):
    complete_run(dashpot, my_task)
    lines = Path("a/run.jsonl").read_text().splitlines(keepends=True)
    Path("a/run.jsonl").write_text("".join([lines[0], "gibberish\n", *lines[1:]] if line else []))
    sentence = refused(dashpot("train", "--resume", "a"))
    assert sentence.startswith("The record a/run.jsonl is damaged")
    assert where in sentence
    assert sentence.endswith("; dashpot train --config a/run.toml starts a new run.")
    with pytest.raises(RunError, match="; delete it to repeat that run"):
        read_run(Path("a/run.jsonl"))


def test_checkpoint_of_a_different_model_is_rejected(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    text = Path("mine.py").read_text().replace("nn.Linear(2, 1)", "nn.Sequential(nn.Linear(2, 1))")
    Path("mine.py").write_text(text.replace("model.weight", "model[0].weight"))
    more = ("--epochs", 2, "--override")
    sentence = refused(dashpot("train", "--resume", "run", *more))
    assert "weight is only" in sentence


class Code:
    """Object that executes a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def only_checkpoint(dashpot, my_task, monkeypatch) -> Path:
    """Interrupt a run in its second step and return its only checkpoint."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        dashpot("train", my_task, *WORDS, "--out", "run")
    path = latest("run/checkpoints")
    assert path is not None
    return path


def test_checkpoint_with_code_is_rejected_without_running_it(dashpot, my_task, monkeypatch):
    torch.save({"model": Code()}, only_checkpoint(dashpot, my_task, monkeypatch))
    assert "run/checkpoints" in refused(dashpot("train", "--resume", "run"))
    assert not Path("executed").exists()


def test_checkpoint_of_a_newer_format_is_rejected(dashpot, my_task, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "FORMAT", 99)
        only_checkpoint(dashpot, my_task, monkeypatch)
    assert "newer" in refused(dashpot("train", "--resume", "run"))


def test_damaged_checkpoint_warns_and_the_previous_one_is_used(dashpot, my_task):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "uninterrupted")
    dashpot("train", *words, "--out", "run")
    path = latest("run/checkpoints")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-100])
    lines = Path("run/run.jsonl").read_text().splitlines(keepends=True)
    Path("run/run.jsonl").write_text("".join(lines[:-1]))  # killed before the line `end` was written
    with pytest.warns(UserWarning, match="the previous checkpoint is used"):
        code, out, _ = dashpot("train", "--resume", "run")
    assert code == 0
    assert "Resuming run after 2 epochs." in out
    assert same_weights("uninterrupted", "run")
