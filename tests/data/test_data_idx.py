from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashpot.data import idx


@settings(deadline=None, max_examples=25)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_decode_inverts_encode_for_every_shape(shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    decoded = idx.decode(idx.encode(array))
    assert decoded.dtype == np.uint8
    assert decoded.shape == array.shape
    assert np.array_equal(decoded, array)


def test_encode_header_matches_published_format():
    """train-images-idx3-ubyte of MNIST starts with 00 00 08 03, then 60000, 28, 28 in big-endian order."""
    header = idx.encode(np.zeros((2, 28, 28), np.uint8))[:16]
    assert header.hex() == "00000803" + "00000002" + "0000001c" + "0000001c"


VALID = idx.encode(np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not start with the idx magic number .first bytes missing"),
        (VALID[:3], "does not start with the idx magic number"),
        (b"\x1f\x8b" + VALID[2:], "first bytes 1f8b0802"),
        (VALID[:2] + b"\x0d" + VALID[3:], "idx type is 0x0d, not 0x08"),
        (VALID[:3] + b"\x00" + VALID[4:], "header of 0 dimensions is incomplete"),
        (VALID[:9], "header of 2 dimensions is incomplete"),
        (VALID[:-1], r"5 values, not the 6 of shape \(2, 3\)"),
        (VALID + b"\0", r"7 values, not the 6 of shape \(2, 3\)"),
    ],
)
def test_decode_invalid_content_raises(content, message):
    with pytest.raises(idx.IdxError, match=message):
        idx.decode(content)


@pytest.mark.parametrize("array", [np.zeros(3, np.int8), np.zeros((), np.uint8)])
def test_encode_invalid_array_raises(array):
    with pytest.raises(idx.IdxError, match="array must be uint8 with dimensions"):
        idx.encode(array)
