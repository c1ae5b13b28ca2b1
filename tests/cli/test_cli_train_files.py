"""`dashpot train` with full disks, unreadable or locked folders, and unusual folder names."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
from pathlib import Path

import pytest
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

from dashpot.errors import RunError
from dashpot.runs.lock import locked
from dashpot.training.distributed import launcher
from dashpot.training.run.folder import RunFolder


def test_unusable_output_folder_exits_with_2(dashpot, my_task):
    Path("file").write_text("")
    assert "Cannot write file/run" in refused(dashpot("train", my_task, *WORDS, "--out", "file/run"))
    Path("full").mkdir()
    Path("full/file").write_text("")
    assert "full is neither empty" in refused(dashpot("train", my_task, *WORDS, "--out", "full"))


@pytest.mark.parametrize(
    "calls", [pytest.param(5, marks=pytest.mark.slow), 9, pytest.param(14, marks=pytest.mark.slow)]
)
def test_run_resumes_bit_identically_after_a_full_disk(dashpot, my_task, monkeypatch, calls):
    words = (my_task, *WORDS, "--epochs", 3)
    dashpot("train", *words, "--out", "uninterrupted")
    real, count = os.fsync, itertools.count(1)

    def full(descriptor):
        if next(count) > calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device" in refused(dashpot("train", *words, "--out", "interrupted"))
    assert not list(Path("interrupted").rglob("*.part"))
    assert dashpot("train", "--resume", "interrupted")[0] == 0
    assert same_weights("uninterrupted", "interrupted")


def test_full_disk_during_an_override_leaves_no_partial_file(dashpot, my_task, monkeypatch):
    folder = complete_run(dashpot, my_task)
    before = contents(folder)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"^Cannot write a/run-1\.toml: No space left on device"):
            RunFolder(folder).write(RunFolder(folder).settings(), command=None)
    assert contents(folder) == before


def test_locked_folder_exits_with_2(dashpot, my_task):
    dashpot("train", my_task, *WORDS, "--epochs", 1, "--out", "run")
    with locked(Path("run")):
        words = ("train", "--resume", "run", "--epochs", 2, "--override")
        assert "Another process is using run" in refused(dashpot(*words))


LONG = "x" * 300


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--resume", LONG), f"Cannot read {LONG}/run.toml: File name too long."),
        (("digits", *WORDS, "--out", LONG), f"Cannot read {LONG}/run.toml: File name too long."),
        (("--resume", "loop"), f"Cannot read loop/run.toml: {os.strerror(errno.ELOOP)}."),
        (("digits", *WORDS, "--out", "loop"), f"Cannot read loop/run.toml: {os.strerror(errno.ELOOP)}."),
    ],
)
def test_unreadable_path_exits_with_2(dashpot, words, sentence):
    Path("loop").symlink_to("loop")
    assert refused(dashpot("train", *words)) == sentence


def test_unlistable_folder_exits_with_2(dashpot, monkeypatch):
    Path("locked").mkdir()

    def denied(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    words = ("digits", *WORDS, "--out", "locked")
    assert refused(dashpot("train", *words)) == "Cannot read locked: Permission denied."


def test_unremovable_log_leaves_the_record_unchanged(dashpot, my_task, monkeypatch):
    folder = interrupted_run(dashpot, my_task, monkeypatch, 1)
    remove_folder(folder / "checkpoints")
    (folder / "log.csv").write_text("old")
    before = contents(folder)

    def denied(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", denied)
    assert "Cannot write a/log.csv: Permission denied" in refused(dashpot("train", "--resume", "a"))
    assert contents(folder) == before


def command_arguments(text: str) -> list[str]:
    """Return the last argument of each command in a message, as parsed by a shell."""
    found = re.findall(r"--(?:config|resume) (?:'[^']*'|[^\s';,.]|\.(?=\S))+", text)
    return [shlex.split(command)[-1] for command in found]


@pytest.mark.parametrize(
    ("name", "shown"), [("o ü", "o ü"), ("-dash", "./-dash"), pytest.param("a;b", "a;b", marks=pytest.mark.slow)]
)
def test_printed_commands_are_shell_quoted(dashpot, my_task, monkeypatch, name, shown):
    words = (my_task, *WORDS, "--epochs", 1, f"--out={name}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        assert command_arguments(dashpot("train", *words)[2]) == [shown]
    code, out, _ = dashpot("train", "--resume", shown)
    assert code == 0
    assert command_arguments(out) == [f"{shown}/run.toml"]
    assert command_arguments(refused(dashpot("train", *words))) == [shown]
    remove_folder(Path(name, "checkpoints"))
    more = ("--epochs", 2, "--override")
    assert command_arguments(refused(dashpot("train", f"--resume={name}", *more))) == [f"{shown}/run.toml"]


def test_launched_processes_get_a_folder_with_leading_dash(dashpot, my_task, monkeypatch):
    seen = []
    monkeypatch.setattr(launcher, "launch", lambda command, *_: seen.append(command) or 0)
    assert dashpot("train", my_task, *WORDS, "--out=-dash", "--devices", 2, "--accelerator", "cpu")[0] == 0
    assert seen[0][-3:] == ["train", "--resume", "./-dash"]
