from __future__ import annotations

import os
from pathlib import Path

import pytest

from dashpot.data import loading, shakespeare
from dashpot.errors import DataError

DATA = Path(os.environ.get("DASHPOT_DATA", "."))
"""The user's data folder, which the fixture removes from the environment."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)


@pytest.mark.parametrize("folder", ["", "tinyshakespeare"])
def test_load_different_text_raises_with_sizes_and_checksums(tmp_path, folder):
    path = tmp_path / folder / "input.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"First Citizen:\n")
    with pytest.raises(DataError, match=rf"damaged \(it has 15 bytes, not 1115394\): .* {shakespeare.SHA256}, got "):
        shakespeare.load(tmp_path)
    assert path.read_bytes() == b"First Citizen:\n"


def test_load_without_data_and_network_raises_with_file_and_folder(monkeypatch, tmp_path):
    pooch = pytest.importorskip("pooch")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(DataError) as error:
        shakespeare.load(tmp_path)
    message = str(error.value)
    assert message.startswith(
        "Tiny Shakespeare was not found, and downloads failed (raw.githubusercontent.com: no network); put "
    )
    assert "into the subfolder tinyshakespeare of a folder, and set --data-dir or DASHPOT_DATA" in message
    assert "\n" not in message


def test_download_uses_published_url_and_checksum(monkeypatch, tmp_path):
    pooch, seen = pytest.importorskip("pooch"), {}

    def retrieve(url, **kwargs):
        seen.update(kwargs, url=url)
        path = Path(kwargs["path"], kwargs["fname"])
        path.write_bytes(b"not the text")
        return str(path)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match=r"renamed to input\.txt\.damaged"):
        shakespeare.load()
    assert seen["url"] == "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    assert seen["known_hash"] == f"sha256:{shakespeare.SHA256}"


def test_real_text_has_published_size_and_characters():
    if not (DATA / "tinyshakespeare" / "input.txt").is_file():
        pytest.skip("needs DASHPOT_DATA, a folder with tinyshakespeare/input.txt")
    text = shakespeare.load(DATA)
    assert (len(text), len(set(text))) == (1_115_394, 65)
    assert text.startswith("First Citizen:\nBefore we proceed any further, hear me speak.\n")
