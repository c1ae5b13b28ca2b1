from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dashpot.utils.atomic_files import keep_aside, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomically_creates_folder_and_replaces_file(tmp_path):
    path = tmp_path / "new" / "file"
    for content in (b"old", b"new"):
        write_atomically(path, lambda file, content=content: file.write(content))
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["file"]


def test_write_atomically_failing_writer_keeps_old_file(tmp_path):
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
def test_write_atomically_on_full_disk_keeps_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_write_atomically_syncs_content_before_rename(tmp_path, monkeypatch):
    path, seen = tmp_path / "file", []
    real = os.fsync

    def observing(descriptor):
        seen.append(path.exists())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", observing)
    write_atomically(path, lambda file: file.write(b"new"))
    assert seen == [False, True]  # content first, then the directory entry
    assert path.read_bytes() == b"new"


def test_write_atomically_uses_default_permissions(tmp_path):
    write_atomically(tmp_path / "atomic", lambda file: file.write(b""))
    (tmp_path / "plain").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_keep_aside_never_overwrites(tmp_path):
    path = tmp_path / "file.gz"
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        keep_aside(path)
    kept = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    assert kept == {"file.gz.damaged": b"one", "file.gz.damaged-2": b"two", "file.gz.damaged-3": b"three"}
