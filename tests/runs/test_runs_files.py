"""Files of runs: appending of lines, and write errors."""

from __future__ import annotations

import errno
import os

import pytest

from dashpot.errors import RunError
from dashpot.runs.files import append_line, make_folder, remove_partial_files, write_text


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_append_line_returns_length(tmp_path):
    path = tmp_path / "record"
    assert append_line(path, "one") == 4
    assert append_line(path, "zwölf") == path.stat().st_size
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"


def test_write_errors_name_the_path(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*file/inside"):
        make_folder(tmp_path / "file" / "inside")
    with pytest.raises(RunError, match=r"Cannot write .*missing"):
        append_line(tmp_path / "missing" / "record", "line")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="completed results are kept"):
        append_line(tmp_path / "record", "line")
    with pytest.raises(RunError, match="No space left"):
        write_text(tmp_path / "text", "text")
    assert not (tmp_path / "text").exists()


def test_remove_partial_files_keeps_all_other_files(tmp_path):
    kept = [".run.jsonl.part", "run.jsonl.0a1b.part", ".notes.txt.0a1b.part", ".run.jsonl.xyz.part", "run.jsonl"]
    for name in [*kept, ".run.jsonl.0a1b.part", ".run-1.jsonl.0a1b.part"]:
        (tmp_path / name).write_text("")
    remove_partial_files(tmp_path, r"run(-\d+)?\.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    remove_partial_files(tmp_path / "missing", ".+")
