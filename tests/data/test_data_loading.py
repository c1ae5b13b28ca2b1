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
    """The folders that original files were read from, in order."""
    seen, real = [], loading.read

    def observing(path, file, *, in_cache):
        seen.append(path.parent)
        return real(path, file, in_cache=in_cache)

    monkeypatch.setattr(loading, "read", observing)
    return seen


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "tiny"])
def test_a_user_folder_is_read_packed_or_not_direct_or_nested_and_nothing_is_written(tiny, tmp_path, place, packed):
    tiny.write(tmp_path / "mine" / place, packed=packed)
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "mine"))
    assert not tiny.cache.exists()


def test_the_places_are_searched_in_order(tiny, tmp_path, monkeypatch, read_from):
    places = [tmp_path / "argument", tmp_path / "environment", tiny.cache, tiny.dataset.system]
    for folder in places:
        tiny.write(folder)
    monkeypatch.setenv("DASHPOT_DATA", str(places[1]))
    load_idx(tiny.dataset, places[0])
    load_idx(tiny.dataset)
    monkeypatch.delenv("DASHPOT_DATA")
    load_idx(tiny.dataset)
    shutil.rmtree(tiny.cache)
    load_idx(tiny.dataset)
    assert read_from[::4] == places
    assert len(read_from) == 16


def test_a_user_folder_without_the_data_set_is_passed_over(tiny, tmp_path, read_from):
    (tmp_path / "other").mkdir()
    tiny.write(tiny.dataset.system)
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "other"))
    assert set(read_from) == {tiny.dataset.system}


def test_a_user_folder_with_some_of_the_files_is_an_error_that_names_the_missing(tiny, tmp_path):
    tiny.write(tiny.dataset.system)
    tiny.write(tmp_path / "mine", leave_out="eval_labels")
    with pytest.raises(DataError, match=r"Tiny-MNIST in .*mine is incomplete: eval-labels \(\.gz\) is missing\.$"):
        load_idx(tiny.dataset, tmp_path / "mine")


def test_the_originals_are_decoded_once(tiny, read_from):
    tiny.write(tiny.dataset.system)
    first, second = load_idx(tiny.dataset), load_idx(tiny.dataset)
    assert tiny.equals(first)
    assert tiny.equals(second)
    assert len(read_from) == 4
    assert names(tiny.cache) == ["decoded.npz"]


def damage(kind: str, packed: bytes, content: bytes) -> bytes:
    return {
        "truncated": packed[: len(packed) // 2],
        "empty": b"",
        "not gzip": b"<html>Please log in</html>",
        "bit flipped": packed[:-12] + bytes([packed[-12] ^ 1]) + packed[-11:],
        "wrong crc": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "short": gzip.compress(content[:-1]),
        "wrong magic": gzip.compress(b"\0\0\x09" + content[3:]),
        "other values": gzip.compress(content[:-1] + bytes([content[-1] ^ 1])),
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
    "other values",
    "trailing",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["train_images", "eval_labels"])
def test_a_damaged_file_of_the_user_is_reported_with_its_checksums_and_left_alone(tiny, tmp_path, kind, key):
    path = tiny.path(tiny.write(tmp_path / "mine"), key)
    bad = damage(kind, tiny.packed(key), tiny.content[key])
    path.write_bytes(bad)
    before = names(path.parent)
    with pytest.raises(DataError) as error:
        load_idx(tiny.dataset, tmp_path / "mine")
    sentence, file = str(error.value), tiny.dataset.files[key]
    expected, actual = file.gzip_sha256, sha256(bad)
    if kind in ("short", "wrong magic", "other values", "trailing", "empty"):  # an empty file unpacks to nothing
        expected, actual = file.sha256, sha256(gzip.decompress(bad))
    assert sentence.startswith(f"{path} is damaged (")
    assert f"{expected}, got {actual}; it was left as it is." in sentence
    assert "\n" not in sentence
    assert path.read_bytes() == bad
    assert names(path.parent) == before
    assert not tiny.cache.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_of_the_cache_is_kept_aside_and_nothing_is_decoded(tiny, kind):
    path = tiny.path(tiny.write(tiny.cache))
    bad = damage(kind, tiny.packed("train_labels"), tiny.content["train_labels"])
    path.write_bytes(bad)
    tiny.write(tiny.dataset.system)
    with pytest.raises(
        DataError, match=r"got [0-9a-f]{64}; it was kept aside as train-labels\.gz\.damaged, and the next"
    ):
        load_idx(tiny.dataset)
    assert (tiny.cache / "train-labels.gz.damaged").read_bytes() == bad
    assert not path.exists()
    assert "decoded.npz" not in names(tiny.cache)
    assert tiny.equals(load_idx(tiny.dataset)), "the next run must find the system's copy"


def test_a_damaged_file_of_the_system_is_left_alone(tiny):
    path = tiny.path(tiny.write(tiny.dataset.system))
    path.write_bytes(b"bad")
    with pytest.raises(DataError, match=r"it was left as it is\.$"):
        load_idx(tiny.dataset)
    assert path.read_bytes() == b"bad"


def test_a_damaged_file_that_cannot_be_renamed_is_still_reported(tiny, monkeypatch):
    tiny.path(tiny.write(tiny.cache)).write_bytes(b"bad")

    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(DataError, match=r"got [0-9a-f]{64}; it could not be kept aside \(Permission denied\)\.$"):
        load_idx(tiny.dataset)


def test_an_unreadable_file_is_reported(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path / "mine")

    def refused(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied\.$"):
        load_idx(tiny.dataset, tmp_path / "mine")


def test_a_copy_packed_anew_is_accepted(tiny, tmp_path):
    tiny.write(tmp_path / "mine")
    for key in tiny.content:
        tiny.path(tmp_path / "mine", key).write_bytes(gzip.compress(tiny.content[key], compresslevel=1, mtime=5))
    assert tiny.equals(load_idx(tiny.dataset, tmp_path / "mine"))


@pytest.mark.parametrize("kind", ["truncated", "flipped", "pickle", "other values", "empty"])
def test_a_damaged_decoded_copy_is_kept_aside_and_made_anew(tiny, logged, kind):
    tiny.write(tiny.dataset.system)
    load_idx(tiny.dataset)
    copy = tiny.cache / "decoded.npz"
    good = copy.read_bytes()
    if kind == "pickle":
        np.savez(copy, **{key: np.array([object()]) for key in tiny.content}, allow_pickle=True)
    elif kind == "other values":
        np.savez(copy, **(tiny.images._asdict() | {"eval_labels": tiny.images.eval_labels + 1}))
    else:
        middle = good.index(tiny.images.train_images.tobytes())
        flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        copy.write_bytes({"truncated": good[:100], "flipped": flipped, "empty": b""}[kind])
    bad = copy.read_bytes()
    assert tiny.equals(load_idx(tiny.dataset))
    assert "decoded.npz is damaged" in logged.text
    assert "was kept aside as decoded.npz.damaged and is decoded anew" in logged.text.replace(",", "")
    assert (tiny.cache / "decoded.npz.damaged").read_bytes() == bad
    assert copy.read_bytes() == good


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_the_decoded_copy_only_and_is_said_once(tiny, logged, monkeypatch):
    tiny.write(tiny.dataset.system)
    monkeypatch.setattr(os, "fsync", full_disk)
    for _ in range(3):
        assert tiny.equals(load_idx(tiny.dataset))
    assert names(tiny.cache) == []
    assert logged.levels == ["WARNING"]
    assert "is not kept in" in logged.text
    assert "No space left on device" in logged.text


def test_a_cache_that_cannot_be_made_costs_the_decoded_copy_only(tiny, logged):
    tiny.write(tiny.dataset.system)
    tiny.cache.parent.write_text("a file where the cache's folder should be")
    assert tiny.equals(load_idx(tiny.dataset))
    assert "is not kept in" in logged.text


def test_a_crash_before_the_decoded_copy_is_in_place_leaves_a_cache_that_works(tiny, monkeypatch):
    """A killed process cannot clean up: its temporary file stays, but nobody takes it for the copy."""
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


def test_the_decoded_copy_holds_no_pickles_and_no_floats(tiny):
    tiny.write(tiny.dataset.system)
    load_idx(tiny.dataset)
    with np.load(tiny.cache / "decoded.npz", allow_pickle=False) as archive:
        assert {name: sha256(idx.encode(archive[name])) for name in archive.files} == {
            key: file.sha256 for key, file in tiny.dataset.files.items()
        }
