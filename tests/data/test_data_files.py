from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dashpot.utils.atomic_files import keep_aside, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_made_and_the_old_file_replaced(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"old", b"new"):
        write_atomically(path, lambda file, content=content: file.write(content))
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def writer(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, writer)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_the_file_appears_only_after_its_bytes_are_on_the_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    real = os.fsync

    def observing(descriptor):
        seen.append(path.exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", observing)
    write_atomically(path, lambda file: file.write(b"new"))
    assert seen == [False, True]  # the file's bytes, then its name in the folder
    assert path.read_bytes() == b"new"


def test_the_file_has_the_permissions_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "atomic", lambda file: file.write(b""))
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_keeping_aside_never_overwrites(tmp_path):
    path = tmp_path / "file.gz"
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        keep_aside(path)
    kept = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    assert kept == {"file.gz.damaged": b"one", "file.gz.damaged-2": b"two", "file.gz.damaged-3": b"three"}
