"""Compressed data files that decompress to much more than their header declares: rejected in little memory."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from memory_limit import memory_limit

from dashpot.data import image_cache
from dashpot.data.idx_dataset import IdxFile
from dashpot.data.verified_read import read
from dashpot.errors import DataError

MEGABYTE = gzip.compress(bytes(2**20), compresslevel=1)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (struct.pack(">4BI", 0, 0, 8, 1, 5), "not the 5 of shape \\(5,\\)"),
        (struct.pack(">4BI", 0, 0, 8, 1, 2**32 - 1), "not the 4294967295 of shape"),
        (b"\1\2\3\4", "does not start with the idx magic number"),
    ],
    ids=["short header", "long header", "no header"],
)
def test_read_of_much_compressed_data_raises_in_little_memory(tmp_path, header, reason):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(header) + 120 * MEGABYTE)
    with memory_limit(2**26), pytest.raises(DataError, match=rf"images\.gz is damaged \(.*{reason}.*left unchanged\.$"):
        read(path, IdxFile("images", "0" * 64, "0" * 64), in_cache=False)


def test_compressed_cache_is_not_loaded(tmp_path, logged):
    path = tmp_path / "decoded.npz"
    np.savez_compressed(path, train_images=np.zeros(2**26, np.uint8))
    with memory_limit(2**25):
        assert image_cache.load(path, None) is None  # pyright: ignore[reportArgumentType]
    assert [each.name for each in tmp_path.iterdir()] == ["decoded.npz.damaged"]
