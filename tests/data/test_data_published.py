"""Data sets of plain files and of archives."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from dashpot.data import loading
from dashpot.data.archive import members
from dashpot.data.loading import load_files, user_files
from dashpot.data.published import PublishedDataset, PublishedFile
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

TEXT = b"To be, or not to be\n" * 50
DATASET = PublishedDataset(
    "plain",
    "Plain Text",
    {"text": PublishedFile("input.txt", sha256(TEXT), size=len(TEXT))},
    ("plain", ""),
    None,
    (),
    "put input.txt into the data folder",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    return tmp_path / "cache" / "plain"


def test_plain_file_is_loaded_from_user_folder_and_cache(tmp_path, cache):
    for folder in (tmp_path / "mine" / "plain", cache):
        folder.mkdir(parents=True)
        (folder / "input.txt").write_bytes(TEXT)
    assert load_files(DATASET, tmp_path / "mine") == load_files(DATASET) == {"text": TEXT}
    (tmp_path / "empty").mkdir()
    assert user_files(DATASET, tmp_path / "empty") is None


def test_plain_file_may_be_compressed_by_user(tmp_path):
    (tmp_path / "input.txt.gz").write_bytes(gzip.compress(TEXT))
    assert load_files(DATASET, tmp_path) == {"text": TEXT}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT[:-1], "it has 999 bytes, not 1000"),
        (TEXT + b"\n", "it has 1001 bytes, not 1000"),
        (TEXT[:-1] + b"x", "its content differs"),
        (b"", "it has 0 bytes, not 1000"),
    ],
)
def test_damaged_plain_file_raises_with_reason_and_checksums(tmp_path, cache, content, reason):
    (tmp_path / "input.txt").write_bytes(content)
    expected = rf"input\.txt is damaged \({reason}\): expected sha256 {sha256(TEXT)}, got {sha256(content)}; it was "
    with pytest.raises(DataError, match=expected + r"left unchanged\.$"):
        load_files(DATASET, tmp_path)
    cache.mkdir(parents=True)
    (cache / "input.txt").write_bytes(content)
    with pytest.raises(DataError, match=expected + r"renamed to input\.txt\.damaged, and the next run"):
        load_files(DATASET)
    assert [path.name for path in cache.iterdir()] == ["input.txt.damaged"]


def test_data_set_without_mirrors_raises_with_advice(cache):
    with pytest.raises(DataError, match=r"^Plain Text was not found; put input\.txt into the data folder\.$"):
        load_files(DATASET)
    assert not cache.exists()


def test_file_without_checksum_is_verified_by_size(tmp_path):
    files = {"text": PublishedFile("input.txt", None, size=4)}
    dataset = PublishedDataset("plain", "Plain Text", files, ("",), None, (), "put it there")
    (tmp_path / "input.txt").write_bytes(b"four")
    assert load_files(dataset, tmp_path) == {"text": b"four"}
    (tmp_path / "input.txt").write_bytes(b"three")
    with pytest.raises(DataError, match=r"is damaged \(it has 5 bytes, not 4\); it was left unchanged\.$"):
        load_files(dataset, tmp_path)


def tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        info = tarfile.TarInfo("folder/input.txt")
        info.size = len(TEXT)
        archive.addfile(info, io.BytesIO(TEXT))
        folder = tarfile.TarInfo("folder/inner")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/input.txt", TEXT)
    return buffer.getvalue()


@pytest.mark.parametrize("archive", [tar("w:gz"), tar("w"), zipped()], ids=["tar.gz", "tar", "zip"])
def test_members_returns_content_or_raises(archive):
    assert members(archive, ["folder/input.txt"], owner="Archive") == {"folder/input.txt": TEXT}
    with pytest.raises(DataError, match=r"^Archive cannot be unpacked: .*folder/other.*\.$"):
        members(archive, ["folder/other"], owner="Archive")


@pytest.mark.parametrize("content", [b"", b"text", tar("w:gz")[:100]], ids=["empty", "text", "truncated"])
def test_members_of_other_content_raises(content):
    with pytest.raises(DataError, match=r"^Archive cannot be unpacked: .*\.$") as error:
        members(content, ["folder/input.txt"], owner="Archive")
    assert "\n" not in str(error.value)


def test_members_of_folder_raises():
    with pytest.raises(DataError, match=r"folder/inner is not a file\.$"):
        members(tar("w"), ["folder/inner"], owner="Archive")
