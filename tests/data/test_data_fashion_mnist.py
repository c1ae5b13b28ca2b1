from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest

from dashpot.data import fashion_mnist
from dashpot.errors import DataError

FILES = fashion_mnist.DATASET.files.values()
# MD5 from the README of zalandoresearch/fashion-mnist, and time stamp of the published gzip header.
PUBLISHED = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 1504176606),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 1504176606),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 1504176627),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 1504176627),
}


@pytest.fixture
def system():
    folder = fashion_mnist.DATASET.system
    if not all((folder / f"{file.name}.gz").is_file() for file in FILES):
        pytest.skip(f"needs {folder} (Debian package dataset-fashion-mnist)")
    return folder


def test_real_data_set_has_published_shapes_and_class_counts(system):
    images = fashion_mnist.load(system)
    assert images.train_images.shape == (60000, 28, 28)
    assert images.eval_images.shape == (10000, 28, 28)
    assert np.bincount(images.train_labels).tolist() == [6000] * 10
    assert np.bincount(images.eval_labels).tolist() == [1000] * 10
    # The usual normalization constant of Fashion-MNIST.
    assert images.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


@pytest.mark.slow
def test_checksums_match_published_files(system):
    """Debian's gzip headers lack the name and time stamp; restoring both must reproduce the published MD5."""
    for file in FILES:
        md5, stamp = PUBLISHED[file.name]
        compressed = (system / f"{file.name}.gz").read_bytes()
        if compressed[3] != 0:
            pytest.skip(f"needs Debian's gzip headers without flags, got flags {compressed[3]}")
        name = file.name.encode() + b"\0"
        published = b"\x1f\x8b\x08\x08" + struct.pack("<I", stamp) + compressed[8:10] + name + compressed[10:]
        assert hashlib.md5(published).hexdigest() == md5
        assert hashlib.sha256(published).hexdigest() == file.gzip_sha256
        assert hashlib.sha256(gzip.decompress(compressed)).hexdigest() == file.sha256


def test_load_different_data_set_with_same_names_raises(tmp_path):
    """MNIST files have the same names but different checksums."""
    for file in FILES:
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    with pytest.raises(DataError, match="it is a valid idx file with different values"):
        fashion_mnist.load(tmp_path)
