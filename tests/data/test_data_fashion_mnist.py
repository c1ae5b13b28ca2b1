from __future__ import annotations

import gzip
import hashlib
import struct

import numpy as np
import pytest

from dashpot.data import fashion_mnist
from dashpot.errors import DataError

FILES = fashion_mnist.DATASET.files.values()
# The MD5 printed in the README of zalandoresearch/fashion-mnist, and the time stamp in the published gzip header.
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
        pytest.skip(f"Fashion-MNIST is not on this machine: no {folder} (Debian package dataset-fashion-mnist)")
    return folder


def test_the_real_data_set_has_its_shape_and_balance(system):
    images = fashion_mnist.load(system)
    assert images.train_images.shape == (60000, 28, 28)
    assert images.eval_images.shape == (10000, 28, 28)
    assert np.bincount(images.train_labels).tolist() == [6000] * 10
    assert np.bincount(images.eval_labels).tolist() == [1000] * 10
    # The mean that everybody's normalisation constant 0.2860 for Fashion-MNIST stands for.
    assert images.train_images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)


def test_the_recorded_checksums_are_those_of_the_published_files(system):
    """Debian packs the files anew, without name and time; with both put back, the published MD5 must come out."""
    for file in FILES:
        md5, stamp = PUBLISHED[file.name]
        packed = (system / f"{file.name}.gz").read_bytes()
        if packed[3] != 0:
            pytest.skip(f"{system} does not hold Debian's copy: its gzip headers have flags {packed[3]}")
        name = file.name.encode() + b"\0"
        published = b"\x1f\x8b\x08\x08" + struct.pack("<I", stamp) + packed[8:10] + name + packed[10:]
        assert hashlib.md5(published).hexdigest() == md5
        assert hashlib.sha256(published).hexdigest() == file.gzip_sha256
        assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == file.sha256


def test_another_data_set_under_the_same_names_is_refused(tmp_path):
    """MNIST and its relatives share the file names."""
    for file in FILES:
        (tmp_path / f"{file.name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    with pytest.raises(DataError, match="it is a whole idx file with other values"):
        fashion_mnist.load(tmp_path)
