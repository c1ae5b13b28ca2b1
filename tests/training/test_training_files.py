"""Writing files of runs: lines that are on the disk, and one sentence where they cannot be."""

from __future__ import annotations

import errno
import os

import pytest

from dashpot.errors import RunError
from dashpot.runs.files import append_line, make_folder, write_text


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_are_appended_and_the_length_is_told(tmp_path):
    path = tmp_path / "record"
    assert append_line(path, "one") == 4
    assert append_line(path, "zwölf") == path.stat().st_size
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
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
