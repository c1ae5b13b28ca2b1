"""Rounding to bfloat16: stochastic (unbiased), or compensated with a second number (nearly lossless).

A bfloat16 number has 8 significant bits. If a weight of 1 is rounded to nearest, every step smaller than 2^-9 is
therefore lost. There are two known remedies, both computed in float32: rounding up or down at random with the correct
mean, or storing the rounding error in a second bfloat16 number and adding this error before the next step. Zamirai et
al. compare the two remedies in training.

All operations are elementwise int32 and float32 arithmetic on bit patterns. The noise is stateless: it is a hash of
(seed, step, tensor, slot, element). Therefore a resumed run is bitwise identical to an uninterrupted run, and all
engines and devices produce the same bits. int32 arithmetic is modulo 2^32. No operation relies on a cast from float32
to bfloat16 and back, because compilers may remove such pairs of casts.

Source: Zamirai et al., "Revisiting BFloat16 Training", arXiv 2010.06192; Kahan, "Further remarks on reducing
truncation errors", Communications of the ACM 8(1), 1965.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError

_SEED = Interval(0, 2**63, "left", integer=True)


def _signed(value: int) -> int:
    """Return `value` modulo 2^32 as a signed 32-bit integer."""
    return (value + 2**31) % 2**32 - 2**31


_GOLDEN = _signed(0x9E3779B9)  # 2^32 / golden ratio; the number is odd, and its multiples are equidistributed
_FACTORS = _signed(0xED5AD4BB), _signed(0xAC4C1B51), _signed(0x31848BAB)
_MULTIPLIER = 0x7FEB352D
_WORD, _NEXT = _signed(0x846CA68B), 0x42F6FBD2  # _WORD + k _NEXT is odd and a good multiplier for each k
_BLOCK, _QUARTER = 9, 7  # log2 of 512 and of 128: a block of 512 elements shares 128 hashes
_UPPER_HALF = _signed(0xFFFF0000)
_LOWER_HALF = 0x0000FFFF
_TIE = 0x8000
_MAGNITUDE = 0x7FFFFFFF
_NAN = 0x7FC00000


def _primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an operation as a primitive: like a torch function, it is recorded as a single node during tracing."""

    @functools.wraps(function)
    def dispatched(x: Any, *others: Any) -> Any:
        if isinstance(x, Tensor):
            return function(x, *others)
        return type(x).__torch_function__(function, (type(x),), (x, *others))

    return dispatched


def _check_dtype(owner: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raise `ArgumentError` unless `value` has this dtype; other dtypes would silently change the arithmetic."""
    if value.dtype != dtype:
        raise ArgumentError(f"{owner}: {name} must be a tensor of {dtype}, got {value.dtype}.")


def _fold(x: Tensor, distance: int) -> Tensor:
    """Return `x ^ (x >> distance)` with a logical shift."""
    return x ^ ((x >> distance) & (_MAGNITUDE >> (distance - 1)))


def _first_round(x: Tensor) -> Tensor:
    return _fold(x, 17) * _FACTORS[0]


def _last_rounds(x: Tensor) -> Tensor:
    return _fold(_fold(_fold(x, 11) * _FACTORS[1], 15) * _FACTORS[2], 14)


def mix(word: Tensor, salt: int | Tensor) -> Tensor:
    """Return `hash(word + (salt + 1) * golden)`, modulo 2^32.

    For a fixed word, the result is an injective function of the salt, because the hash and the multiplication are
    bijective.

    Args:
        word: int32 tensor of any shape.
        salt: A Python integer, or an int32 tensor that broadcasts with `word`. It is reduced modulo 2^32.

    Returns:
        An int32 tensor.

    Raises:
        ArgumentError: If a tensor is not int32.

    Source: the three-round hash `triple32` of C. Wellons' hash prospector (https://github.com/skeeto/hash-prospector:
    shifts 17, 11, 15, 14 and three multiplications); the golden-ratio sequence of Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014.

    >>> int(mix(torch.tensor(1, dtype=torch.int32), 0)) == int(mix(torch.tensor(1, dtype=torch.int32), 1))
    False
    """
    _check_dtype("mix", "word", word, torch.int32)
    if isinstance(salt, int):
        return _last_rounds(_first_round(word + _signed((salt + 1) * _GOLDEN)))
    _check_dtype("mix", "salt", salt, torch.int32)
    return _last_rounds(_first_round(word + (salt * _GOLDEN + _GOLDEN)))


def seed_word(seed: int) -> int:
    """Hash a seed on the host to a signed 32-bit integer, from which the random streams of a run are derived.

    Adjacent seeds result in uncorrelated words. Two given seeds collide with probability 2^-32.

    Args:
        seed: Integer in [0, 2^63).

    Raises:
        ArgumentError: If `seed` is not an integer in [0, 2^63).

    Source: the 64-bit finalizer of SplitMix64 (Steele, Lea and Flood 2014; constants of D. Stafford's variant 13).

    >>> seed_word(0), seed_word(1)
    (-501176263, 1853398634)
    """
    check("seed_word", "seed", seed, _SEED)
    x = (int(seed) + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return _signed((x ^ (x >> 31)) >> 32)


def stream(word: int | Tensor, *numbers: int | Tensor) -> Tensor:
    """Return the word of a noise stream, `mix(mix(mix(word, step), tensor), slot)` for three numbers.

    Streams with different numbers are uncorrelated. Two given streams coincide with probability 2^-32. In a long run
    some streams coincide, but this does not cause a bias.

    Args:
        word: `seed_word(seed)`, or a 0-d int32 tensor with this value.
        numbers: Python integers or 0-d int32 tensors, such as the indices of the step, the tensor and the slot.

    Returns:
        A 0-d int32 tensor.

    Raises:
        ArgumentError: If a tensor is not int32.

    >>> step = torch.tensor(3, dtype=torch.int32)
    >>> stream(seed_word(0), step, 2, 1) == stream(seed_word(0), 3, 2, 1)
    tensor(True)
    """
    out = torch.tensor(word, dtype=torch.int32, device="cpu") if isinstance(word, int) else word
    for number in numbers:
        out = mix(out, number)
    return out


def bits(index: Tensor, word: Tensor) -> Tensor:
    """Return 32 random bits for each element `index` of the noise stream `word`.

    A second word, mixed from `word`, is added after the first round of the hash, so that streams with the same set of
    counters `index ^ word` differ.

    Args:
        index: int32 tensor, index of each element in its tensor.
        word: 0-d int32 tensor returned by `stream`, or an int32 tensor that broadcasts with `index`.

    Returns:
        An int32 tensor shaped like `index`.

    Raises:
        ArgumentError: If a tensor is not int32.

    >>> bits(torch.arange(2, dtype=torch.int32), stream(seed_word(0), 1))
    tensor([...], dtype=torch.int32)
    """
    _check_dtype("bits", "index", index, torch.int32)
    key = mix(word, 0)
    return _last_rounds(_first_round(index ^ word) ^ key)


@_primitive
def dither(index: Tensor, word: Tensor, key: Tensor) -> Tensor:
    """Return 32 random bits for each element `index` of the noise stream `word`, enough for two calls of `noise`.

    `key` is the second word of the stream. In a block of 512 elements, every four elements at a distance of 128 share
    one hash of their counter. This hash is multiplied by a different factor for each of the four elements. The
    multiples of a uniform word by two of the factors form a lattice whose shortest vector is within 7% of the maximum
    possible length, so any two of the four elements are practically independent. The variance of a sum of roundings
    depends only on pairs. The function `bits` does not share hashes and takes twice as long.

    Source: the shifts and the first two factors come from C. Wellons' hash prospector (`lowbias32`); the multipliers
    are chosen by the shortest lattice vector, the spectral test in Knuth, "Seminumerical Algorithms", section 3.3.4.
    """
    counter = (index >> _BLOCK) * (1 << _QUARTER) + (index & ((1 << _QUARTER) - 1))
    quarter = (index >> _QUARTER) & 3
    hashed = _fold(_fold(counter * _GOLDEN + word, 16) * _MULTIPLIER, 15) ^ key
    return _fold(hashed * (quarter * _NEXT + _WORD), 16)


def noise(index: Tensor, word: Tensor, half: int = 0) -> Tensor:
    """Return a uniform integer in [0, 65535] for each element `index` of the noise stream `word`.

    The 32 bits of each element provide two independent numbers, which are used for two slots.

    Args:
        index: int32 tensor, index of each element in its tensor.
        word: 0-d int32 tensor returned by `stream`, or an int32 tensor that broadcasts with `index`.
        half: 0 for the lower 16 bits of the hash, 1 for the upper 16 bits.

    Returns:
        An int32 tensor shaped like `index`.

    Raises:
        ArgumentError: If a tensor is not int32.

    >>> noise(torch.arange(4, dtype=torch.int32), stream(seed_word(0), 1, 0, 0))
    tensor([...], dtype=torch.int32)
    """
    _check_dtype("noise", "index", index, torch.int32)
    return (dither(index, word, mix(word, 0)) >> (16 * half)) & _LOWER_HALF


def _half(x: Tensor) -> Tensor:
    """Return the addend for rounding to nearest, with ties to even."""
    return ((x.view(torch.int32) >> 16) & 1) + (_TIE - 1)


def _rounded(x: Tensor, addend: Tensor) -> Tensor:
    """Add `addend` to the bits of `x`, so that their upper half is the rounded number. A carry rounds away from 0.

    Nans are replaced, because a carry could turn a nan into zero, and truncation could turn it into infinity.
    """
    return torch.where(torch.isnan(x), _NAN, x.view(torch.int32) + addend)


def _upper(bits: Tensor) -> Tensor:
    """Return the upper halves of the bits as bfloat16 numbers."""
    return (bits >> 16).to(torch.int16).view(torch.bfloat16)


@_primitive
def stochastic(x: Tensor, noise: Tensor) -> Tensor:
    """Round `x` to one of the two adjacent bfloat16 numbers, with mean exactly `x`.

    Let `f` be the lower 16 bits of `x`, so that `f / 65536` is the relative position of `x` between the neighbor
    towards 0 and the neighbor away from 0. For exactly `f` of the 65536 values of `noise`, adding the noise
    carries into the upper bits. Thus the result is the neighbor away from 0 with probability `f / 65536`, and its mean
    is `x`, even for subnormals.

    Numbers representable in bfloat16, including signed zeros and infinities, are unchanged. No `|x|` up to the largest
    finite bfloat16 number, 3.3895e38, becomes infinite. A larger finite number is rounded to 3.3895e38 or to infinity
    by the same rule, as if infinity were 2^128. (Rounding to nearest makes numbers from the midpoint upwards infinite.)
    A nan remains a nan, with unspecified payload. The function is odd:
    `stochastic(-x, noise) == -stochastic(x, noise)`.

    Args:
        x: float32 tensor.
        noise: int32 tensor that broadcasts with `x`, uniform in [0, 65535], as returned by the function `noise`.

    Returns:
        A bfloat16 tensor shaped like `x`.

    Raises:
        ArgumentError: If a tensor has a different dtype.

    Source: arXiv 2010.06192 (stochastic rounding of weight updates).

    >>> x, n = torch.full((65536,), 1.001), torch.arange(65536, dtype=torch.int32)
    >>> bool(stochastic(x, n).double().mean() == x[0].double()), stochastic(x, n).unique().tolist()
    (True, [1.0, 1.0078125])
    """
    _check_dtype("stochastic", "x", x, torch.float32)
    _check_dtype("stochastic", "noise", noise, torch.int32)
    return _upper(_rounded(x, noise))


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split `x` into a bfloat16 number and a remainder: `high = nearest(x)`, `low = nearest(x - high)`.

    Ties are rounded to even in `high`, as in torch, and away from zero in `low`, which is cheaper and equally accurate.

    For `2^e <= |x| < 2^(e+1)` the remainder is at most `2^(e-8)` and exact in float32. Rounding it to 8 significant
    bits errs by at most `2^(e-17)`, and the sum in `join` is exact. Thus

        |join(*split(x)) - x| <= max(2^-17 |x|, 2^-134),

    where the second term applies to subnormal remainders (`|x| < 2^-117`). The error of bfloat16 alone is up to
    `2^(e-8)`: the 16 additional bits of memory provide 9 more significant bits, 17 in all, and a step smaller than
    `2^-17 |x|` can still be lost. This is Kahan's compensated summation: if a step is computed as `split(join(high,
    low) + step)`, the rounding error of `high` is added to the next step.

    The result `high` always equals `x.to(torch.bfloat16)`. If `high` is infinite or nan, `low` is 0, so that `join`
    returns `high`. Finite `x` of magnitude 3.3962e38 or more become infinite, as in any rounding to nearest. For -0,
    `join` returns +0.

    Args:
        x: float32 tensor.

    Returns:
        `high` and `low`, bfloat16 tensors shaped like `x`.

    Raises:
        ArgumentError: If `x` is not float32.

    Source: Kahan 1965; arXiv 2010.06192 (Kahan summation of weight updates).

    >>> high, low = split(torch.tensor([1.001, float("inf")]))
    >>> high.tolist(), low.tolist()
    ([1.0, inf], [0.00099945068359375, 0.0])
    """
    _check_dtype("split", "x", x, torch.float32)
    return high_and_low(x)


@_primitive
def high_and_low(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split a float32 tensor as `split` does, without checking its dtype."""
    bits = _rounded(x, _half(x))
    remainder = x - (bits & _UPPER_HALF).view(torch.float32)
    # If `high` is infinite or nan, so is the remainder, which is replaced by 0.
    low = torch.where(remainder.abs() < torch.inf, remainder.view(torch.int32) + _TIE, 0)
    return _upper(bits), _upper(low)


def join(high: Tensor, low: Tensor) -> Tensor:
    """Return the float32 number `high + low`, exact for a pair from `split`.

    Args:
        high: bfloat16 tensor.
        low: bfloat16 tensor shaped like `high`.

    Returns:
        A float32 tensor.

    Raises:
        ArgumentError: If a tensor is not bfloat16.

    Source: Kahan 1965.

    >>> w = torch.ones(1)
    >>> for _ in range(1000):
    ...     w = join(*split(w + 1e-3))
    >>> bool((w - 2).abs() < 1000 * (2**-17 + 2**-24))
    True
    """
    _check_dtype("join", "high", high, torch.bfloat16)
    _check_dtype("join", "low", low, torch.bfloat16)
    return high.to(torch.float32) + low.to(torch.float32)
