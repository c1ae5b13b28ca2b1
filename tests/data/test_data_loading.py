from __future__ import annotations

import errno
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from dashpot.data import idx, loading
from dashpot.data.loading import load_idx
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def read_from(monkeypatch):
    """List of the folders of files that were read, in order."""
    seen, real = [], loading.read

    def recording(path, file, *, in_cache):
        seen.append(path.parent)
        return real(path, file, in_cache=in_cache)

    monkeypatch.setattr(loading, "read", recording)
    return seen


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("subfolder", ["", "tiny"])
def test_load_from_user_folder_writes_nothing(tiny, tmp_path, subfolder, compressed):
    tiny.write(tmp_path / "mine" / subfolder, compressed=compressed)
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "mine"))
    assert not tiny.cache.exists()


def test_load_searches_sources_in_order(tiny, tmp_path, monkeypatch, read_from):
    folders = [tmp_path / "argument", tmp_path / "environment", tiny.cache, tiny.dataset.system]
    for folder in folders:
        tiny.write(folder)
    monkeypatch.setenv("DASHPOT_DATA", str(folders[1]))
    load_idx(tiny.dataset, folders[0])
    load_idx(tiny.dataset)
    monkeypatch.delenv("DASHPOT_DATA")
    load_idx(tiny.dataset)
    shutil.rmtree(tiny.cache)
    load_idx(tiny.dataset)
    assert read_from[::4] == folders
    assert len(read_from) == 16


def test_load_skips_user_folder_without_data_set(tiny, tmp_path, read_from):
    (tmp_path / "other").mkdir()
    tiny.write(tiny.dataset.system)
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "other"))
    assert set(read_from) == {tiny.dataset.system}


def test_load_from_incomplete_user_folder_raises_with_missing_files(tiny, tmp_path):
    tiny.write(tiny.dataset.system)
    tiny.write(tmp_path / "mine", omit="eval_labels")
    with pytest.raises(DataError, match=r"Tiny-MNIST in .*mine is incomplete: eval-labels \(\.gz\) is missing\.$"):
        load_idx(tiny.dataset, tmp_path / "mine")


def test_load_decodes_original_files_once(tiny, read_from):
    tiny.write(tiny.dataset.system)
    first, second = load_idx(tiny.dataset), load_idx(tiny.dataset)
    assert tiny.equals(first)
    assert tiny.equals(second)
    assert len(read_from) == 4
    assert names(tiny.cache) == ["decoded.npz"]


def damage(kind: str, compressed: bytes, content: bytes) -> bytes:
    return {
        "truncated": compressed[: len(compressed) // 2],
        "empty": b"",
        "not gzip": b"<html>Please log in</html>",
        "bit flipped": compressed[:-12] + bytes([compressed[-12] ^ 1]) + compressed[-11:],
        "wrong crc": compressed[:-8] + b"\0\0\0\0" + compressed[-4:],
        "short": gzip.compress(content[:-1]),
        "wrong magic": gzip.compress(b"\0\0\x09" + content[3:]),
        "different values": gzip.compress(content[:-1] + bytes([content[-1] ^ 1])),
        "trailing": gzip.compress(content + b"\0"),
    }[kind]


KINDS = [
    "truncated",
    "empty",
    "not gzip",
    "bit flipped",
    "wrong crc",
    "short",
    "wrong magic",
    "different values",
    "trailing",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["train_images", "eval_labels"])
def test_damaged_user_file_raises_with_checksums_and_is_unchanged(tiny, tmp_path, kind, key):
    path = tiny.path(tiny.write(tmp_path / "mine"), key)
    damaged = damage(kind, tiny.compressed(key), tiny.content[key])
    path.write_bytes(damaged)
    before = names(path.parent)
    with pytest.raises(DataError) as error:
        load_idx(tiny.dataset, tmp_path / "mine")
    message, file = str(error.value), tiny.dataset.files[key]
    expected, actual = file.gzip_sha256, sha256(damaged)
    if kind in (
        "short",
        "wrong magic",
        "different values",
        "trailing",
        "empty",
    ):  # an empty file decompresses to empty content
        expected, actual = file.sha256, sha256(gzip.decompress(damaged))
    assert message.startswith(f"{path} is damaged (")
    assert f"{expected}, got {actual}; it was left unchanged." in message
    assert "\n" not in message
    assert path.read_bytes() == damaged
    assert names(path.parent) == before
    assert not tiny.cache.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_cached_file_is_renamed(tiny, kind):
    path = tiny.path(tiny.write(tiny.cache))
    damaged = damage(kind, tiny.compressed("train_labels"), tiny.content["train_labels"])
    path.write_bytes(damaged)
    tiny.write(tiny.dataset.system)
    with pytest.raises(DataError, match=r"got [0-9a-f]{64}; it was renamed to train-labels\.gz\.damaged, and the next"):
        load_idx(tiny.dataset)
    assert (tiny.cache / "train-labels.gz.damaged").read_bytes() == damaged
    assert not path.exists()
    assert "decoded.npz" not in names(tiny.cache)
    assert tiny.equals(load_idx(tiny.dataset)), "the next run must use the system package"


def test_damaged_system_file_is_unchanged(tiny):
    path = tiny.path(tiny.write(tiny.dataset.system))
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"it was left unchanged\.$"):
        load_idx(tiny.dataset)
    assert path.read_bytes() == b"damaged"


def test_damaged_file_raises_if_rename_fails(tiny, monkeypatch):
    tiny.path(tiny.write(tiny.cache)).write_bytes(b"damaged")

    def raise_permission_error(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", raise_permission_error)
    with pytest.raises(DataError, match=r"got [0-9a-f]{64}; it could not be renamed \(Permission denied\)\.$"):
        load_idx(tiny.dataset)


def test_unreadable_file_raises(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path / "mine")

    def raise_permission_error(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", raise_permission_error)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied\.$"):
        load_idx(tiny.dataset, tmp_path / "mine")


def test_recompressed_file_is_valid(tiny, tmp_path):
    tiny.write(tmp_path / "mine")
    for key in tiny.content:
        tiny.path(tmp_path / "mine", key).write_bytes(gzip.compress(tiny.content[key], compresslevel=1, mtime=5))
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "mine"))


@pytest.mark.parametrize("kind", ["truncated", "flipped", "pickle", "different values", "empty"])
def test_damaged_decoded_file_is_renamed_and_decoded_again(tiny, logged, kind):
    tiny.write(tiny.dataset.system)
    load_idx(tiny.dataset)
    decoded = tiny.cache / "decoded.npz"
    intact = decoded.read_bytes()
    if kind == "pickle":
        np.savez(decoded, **{key: np.array([object()]) for key in tiny.content}, allow_pickle=True)
    elif kind == "different values":
        np.savez(decoded, **(tiny.images._asdict() | {"eval_labels": tiny.images.eval_labels + 1}))
    else:
        middle = intact.index(tiny.images.train_images.tobytes())
        flipped = intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :]
        decoded.write_bytes({"truncated": intact[:100], "flipped": flipped, "empty": b""}[kind])
    damaged = decoded.read_bytes()
    assert tiny.equals(load_idx(tiny.dataset))
    assert "decoded.npz is damaged" in logged.text
    assert "was renamed to decoded.npz.damaged, and is decoded again" in logged.text
    assert (tiny.cache / "decoded.npz.damaged").read_bytes() == damaged
    assert decoded.read_bytes() == intact


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_load_on_full_disk_warns_once(tiny, logged, monkeypatch):
    tiny.write(tiny.dataset.system)
    monkeypatch.setattr(os, "fsync", full_disk)
    for _ in range(3):
        assert tiny.equals(load_idx(tiny.dataset))
    assert names(tiny.cache) == []
    assert logged.levels == ["WARNING"]
    assert "is not cached in" in logged.text
    assert "No space left on device" in logged.text


def test_load_with_unwritable_cache_warns(tiny, logged):
    tiny.write(tiny.dataset.system)
    tiny.cache.parent.write_text("a file in subfolder of the cache folder")
    assert tiny.equals(load_idx(tiny.dataset))
    assert "is not cached in" in logged.text


def test_load_after_crash_during_caching(tiny, monkeypatch):
    """A killed process leaves its temporary file behind, which must not be used as the decoded data set."""
    tiny.write(tiny.dataset.system)
    with monkeypatch.context() as patch:

        def killed(self, *_):
            shutil.copy(self, self.with_name("survivor.part"))
            raise KeyboardInterrupt

        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            load_idx(tiny.dataset)
    assert names(tiny.cache) == ["survivor.part"]
    assert tiny.equals(load_idx(tiny.dataset))
    assert names(tiny.cache) == ["decoded.npz", "survivor.part"]


def test_decoded_file_contains_only_original_arrays(tiny):
    tiny.write(tiny.dataset.system)
    load_idx(tiny.dataset)
    with np.load(tiny.cache / "decoded.npz", allow_pickle=False) as archive:
        assert {name: sha256(idx.encode(archive[name])) for name in archive.files} == {
            key: file.sha256 for key, file in tiny.dataset.files.items()
        }
