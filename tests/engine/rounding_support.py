"""Numbers and comparisons for the tests of rounding to bfloat16.

Seeds are fixed, so each test either always passes or always fails. Sampling limits are `Z` standard deviations for up
to a few hundred comparisons; with truly random numbers, even the maximum of 10^4 comparisons would pass.
"""

import struct

import torch
from hypothesis import strategies as st

Z = 5.0
LARGEST = 3.3895313892515355e38  # the largest finite bfloat16 number
ALL_NOISE = torch.arange(65536, dtype=torch.int32)
EVERY_BFLOAT16 = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
bounded = st.floats(-LARGEST, LARGEST, width=32)


def i32(value):
    return torch.tensor(value, dtype=torch.int32)


def indices(n):
    return torch.arange(n, dtype=torch.int32)


def bits(x):
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])


def same_bits(x, y):
    """Compare bit for bit, except for the payload of nans, which casts may change."""
    assert x.dtype == y.dtype
    if not x.dtype.is_floating_point:
        return torch.equal(x, y)
    nan = x.isnan()
    return torch.equal(nan, y.isnan()) and torch.equal(bits(x)[~nan], bits(y)[~nan])


def every_exponent():
    """Return float32 numbers of every exponent and sign, with mantissas equal to, near and between bfloat16 numbers."""
    generator = torch.Generator().manual_seed(7)
    edges = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x17FFF, 0x18000, 0x7F7FFF, 0x7F8000, 0x7FFFFF]
    fractions = torch.cat([i32(edges), torch.randint(0, 2**23, (200,), generator=generator, dtype=torch.int32)])
    positive = ((indices(256)[:, None] << 23) + fractions).flatten()
    return torch.cat([positive, positive | i32(-(2**31))]).view(torch.float32)


def neighbors(x):
    """Return the adjacent bfloat16 numbers towards and away from 0, computed with Python integers as a reference."""
    (pattern,) = struct.unpack("<I", struct.pack("<f", x))
    below = pattern & 0xFFFF0000
    above = below if pattern == below else below + 0x10000
    return tuple(struct.unpack("<f", struct.pack("<I", p))[0] for p in (below, above))
