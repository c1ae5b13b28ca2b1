from __future__ import annotations

import types
from importlib import resources

import numpy as np
import pytest

from dashpot.data import digits
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256


def test_digits_split_has_documented_sizes():
    images = digits.load()
    assert images.train_images.shape == (1500, 8, 8)
    assert images.train_labels.shape == (1500,)
    assert images.eval_images.shape == (297, 8, 8)
    assert images.eval_labels.shape == (297,)
    assert {array.dtype for array in images} == {np.dtype(np.uint8)}


def test_digits_values_match_published_ones():
    """Class counts and the first image are taken from the description of optdigits.tes at UCI."""
    images = digits.load()
    labels = np.concatenate([images.train_labels, images.eval_labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.train_images[0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (images.train_images.min(), images.train_images.max()) == (0, 16)


def test_digits_file_is_small_and_includes_licence():
    folder = resources.files(digits)
    assert len((folder / "digits.npz").read_bytes()) < 100_000
    notice = (folder / "NOTICE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in notice
    assert "10.24432/C50P49" in notice


@pytest.mark.parametrize("kind", ["truncated", "different values", "missing"])
def test_damaged_digits_file_raises(monkeypatch, tmp_path, kind):
    copy = tmp_path / "digits.npz"
    good = (resources.files(digits) / "digits.npz").read_bytes()
    if kind == "truncated":
        copy.write_bytes(good[:1000])
    elif kind == "different values":
        np.savez(copy, images=np.zeros((1797, 8, 8), np.uint8), labels=np.zeros(1797, np.uint8))
        actual = sha256(bytes(1797 * 65))
    monkeypatch.setattr(digits, "resources", types.SimpleNamespace(files=lambda _: tmp_path))
    with pytest.raises(DataError, match=r"digits\.npz is damaged.*reinstall dashpot\.$") as error:
        digits.load()
    if kind == "different values":
        assert f"expected sha256 {digits.SHA256}, got {actual};" in str(error.value)
