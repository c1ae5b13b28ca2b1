from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch

from dashpot.data import encoded_text, gpt2, loading
from dashpot.data.byte_pairs import from_merges, train
from dashpot.data.encoded_text import encoded
from dashpot.errors import DataError

pytest.importorskip("tokenizers")

TEXT = (" The <unk> of Żółw was built in 1900 , and rebuilt in 1910 . \n\n" * 40).encode()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for module in (encoded_text, loading):
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    return tmp_path / "cache" / "encoded"


def decoded(encoding, tokens) -> bytes:
    """Concatenate the bytes of the tokens; GPT-2's alphabet maps the printable bytes to themselves."""
    names = {token: name for name, token in json.loads(encoding.settings)["model"]["vocab"].items()}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return bytes(alphabet[character] for token in tokens.tolist() for character in names[token])


@pytest.mark.parametrize("text", [TEXT, "ein anderer Text: \U0001f600\r\nline".encode(), b"", b"\n", bytes([97, 0, 9])])
def test_encoding_of_any_text_is_lossless(text):
    encoding = train(TEXT, 300)
    tokens = encoding.encode(text)
    assert decoded(encoding, tokens) == text
    assert encoding.byte_lengths[torch.from_numpy(tokens.astype(np.int64))].sum() == len(text)


def test_training_is_deterministic_and_bounded():
    one, two, few = train(TEXT, 280), train(TEXT, 280), train(TEXT, 256)
    assert one == two
    assert one.sha256 != few.sha256
    assert (len(one), len(few)) == (280, 256)
    assert len(train(TEXT, 5000)) < 400  # all words are tokens
    assert len(one.encode(TEXT)) < len(few.encode(TEXT)) == len(TEXT)


def test_merges_apply_in_order():
    alphabet = [chr(byte) for byte in range(33, 127)] + ["Ġ", "Ċ"]
    names = [*alphabet, "he", "Ġt", "Ġthe"]
    vocabulary = json.dumps({name: token for token, name in enumerate(names)}).encode()
    encoding = from_merges(vocabulary, "#version: 0.2\nĠ t\nh e\nĠt he\n".encode())
    assert [names[token] for token in encoding.encode(b"he the tea\n")] == ["he", "Ġthe", "Ġt", "e", "a", "Ċ"]


def test_encoded_text_is_stored_and_verified(cache, monkeypatch):
    calls = []

    def encoding():
        calls.append(1)
        return train(TEXT, 300)

    first = encoded({"train": TEXT, "test": b"The test"}, "bpe-300", encoding)
    second = encoded({"train": TEXT, "test": b"The test"}, "bpe-300", encoding)
    assert len(calls) == 1
    assert first.encoding == second.encoding
    assert all(torch.equal(first.tokens[key], second.tokens[key]) for key in ("train", "test"))
    assert first.tokens["train"].dtype == torch.int32
    encoded({"train": TEXT, "test": b"The text"}, "bpe-300", encoding)
    encoded({"train": TEXT, "test": b"The test"}, "bpe-301", encoding)
    assert len(calls) == len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_encoded_text_is_renamed_and_encoded_again(cache, logged, damage):
    first = encoded({"train": TEXT}, "bpe-300", lambda: train(TEXT, 300))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    flipped = content[:200] + bytes([content[200] ^ 1]) + content[201:]
    path.write_bytes({"truncated": content[:-1], "flipped": flipped, "empty": b""}[damage])
    second = encoded({"train": TEXT}, "bpe-300", lambda: train(TEXT, 300))
    assert torch.equal(first.tokens["train"], second.tokens["train"])
    assert "is damaged, was renamed to" in logged.text
    assert path.read_bytes() == content
    assert len(list(cache.iterdir())) == 2


def test_encoded_text_with_unwritable_cache_warns(cache, logged):
    cache.parent.write_text("a file in place of the cache folder")
    assert len(encoded({"train": TEXT}, "bpe-300", lambda: train(TEXT, 300)).tokens["train"])
    assert "The encoded text is not cached in" in logged.text


def test_gpt2_files_with_other_checksums_raise(cache, tmp_path):
    folder = tmp_path / "mine" / "gpt2"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=r"is incomplete: vocab\.bpe is missing\.$"):
        gpt2.load(tmp_path / "mine")
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(DataError, match=r"vocab\.json is damaged \(its content differs\): expected sha256 1961"):
        gpt2.load(tmp_path / "mine")


def test_gpt2_without_files_and_network_raises_with_alternatives(cache, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.setattr(logging.getLogger("pooch"), "disabled", True)
    with pytest.raises(DataError, match=r"GPT-2 was not found, and downloads failed \(openai.*or use the tier cpu"):
        gpt2.load()
