"""Rounding to bfloat16 that loses nothing on average (stochastic) or almost nothing at all (split in two numbers).

A bfloat16 number has 8 significant bits, so a weight of 1 rounded to nearest ignores every step below 2^-9. Two known
remedies, both computed in float32: round up or down at random so that the mean is right, or keep what the rounding
lost in a second bfloat16 number and add it back before the next step. Zamirai et al. compare them in training.

Everything is elementwise int32 and float32 arithmetic on bit patterns. There is no generator with a state: noise is a
hash of what it is for (seed, step, tensor, slot, element), so a resumed run continues bit for bit, and every engine
and device gives the same bits. int32 arithmetic is meant modulo 2^32 throughout. Rounding never relies on a cast from
float32 to bfloat16 and back, because a compiler may leave out such a pair.

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

__all__ = ["bits", "dither", "high_and_low", "join", "mix", "noise", "seed_word", "split", "stochastic", "stream"]

_SEED = Interval(0, 2**63, "left", integer=True)


def _signed(value: int) -> int:
    """The 32-bit two's-complement number that is congruent to `value` modulo 2^32."""
    return (value + 2**31) % 2**32 - 2**31


_GOLDEN = _signed(0x9E3779B9)  # 2^32 over the golden ratio, odd: its multiples spread evenly
_FACTORS = _signed(0xED5AD4BB), _signed(0xAC4C1B51), _signed(0x31848BAB)
_SPREAD = 0x7FEB352D
_WORD, _NEXT = _signed(0x846CA68B), 0x42F6FBD2  # the factors _WORD + k _NEXT are odd, and each is a good multiplier
_BLOCK, _QUARTER = 9, 7  # 512 elements share the 128 hashes of their block
_UPPER_HALF = _signed(0xFFFF0000)
_LOWER_HALF = 0x0000FFFF
_TIE = 0x8000
_MAGNITUDE = 0x7FFFFFFF
_NAN = 0x7FC00000


def _primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark an operation that the kernel language has as a whole: a symbol keeps one node for it, as for torch's own."""

    @functools.wraps(function)
    def dispatched(x: Any, *others: Any) -> Any:
        if isinstance(x, Tensor):
            return function(x, *others)
        return type(x).__torch_function__(function, (type(x),), (x, *others))

    return dispatched


def _demand(owner: str, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """Raise `ArgumentError` unless `value` has this dtype: another one would change the arithmetic silently."""
    if value.dtype != dtype:
        raise ArgumentError(f"{owner}: {name} must be a tensor of {dtype}, got {value.dtype}.")


def _fold(x: Tensor, distance: int) -> Tensor:
    """`x` xor its own upper bits, moved down by `distance` with zeros shifted in."""
    return x ^ ((x >> distance) & (_MAGNITUDE >> (distance - 1)))


def _first_round(x: Tensor) -> Tensor:
    return _fold(x, 17) * _FACTORS[0]


def _last_rounds(x: Tensor) -> Tensor:
    return _fold(_fold(_fold(x, 11) * _FACTORS[1], 15) * _FACTORS[2], 14)


def mix(word: Tensor, salt: int | Tensor) -> Tensor:
    """A new 32-bit word from `word` and a number: `hash(word + (salt + 1) * golden)`, modulo 2^32.

    For one word, different salts give different words (the hash and the multiplication are one-to-one).

    Args:
        word: int32 tensor of any shape.
        salt: a Python integer or an int32 tensor that broadcasts with `word`; taken modulo 2^32.

    Returns:
        An int32 tensor.

    Raises:
        ArgumentError: a tensor is not int32.

    Source: the three-round hash `triple32` of C. Wellons' hash prospector (https://github.com/skeeto/hash-prospector:
    shifts 17, 11, 15, 14 and three multiplications); the walk in steps of the golden ratio of Steele, Lea and Flood,
    "Fast splittable pseudorandom number generators", OOPSLA 2014.

    >>> int(mix(torch.tensor(1, dtype=torch.int32), 0)) == int(mix(torch.tensor(1, dtype=torch.int32), 1))
    False
    """
    _demand("mix", "word", word, torch.int32)
    if isinstance(salt, int):
        return _last_rounds(_first_round(word + _signed((salt + 1) * _GOLDEN)))
    _demand("mix", "salt", salt, torch.int32)
    return _last_rounds(_first_round(word + (salt * _GOLDEN + _GOLDEN)))


def seed_word(seed: int) -> int:
    """The word a run starts from: any seed from 0 to 2^63 - 1, hashed to a signed 32-bit integer on the host.

    Neighbouring seeds give unrelated words. There are 2^32 words, so two given seeds share one with chance 2^-32.

    Raises:
        ArgumentError: `seed` is not an integer in [0, 2^63).

    Source: the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood 2014; constants of D. Stafford's variant 13).

    >>> seed_word(0), seed_word(1)
    (-501176263, 1853398634)
    """
    check("seed_word", "seed", seed, _SEED)
    x = (int(seed) + 1) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return _signed((x ^ (x >> 31)) >> 32)


def stream(word: int | Tensor, *numbers: int | Tensor) -> Tensor:
    """The word of one stream of noise: `mix(mix(mix(word, step), tensor), slot)` and so on, in the given order.

    Streams of different numbers are unrelated. As words have 32 bits, two given streams coincide with chance 2^-32:
    in a long run some step of one tensor repeats the noise of another step of another tensor, which biases nothing.

    Args:
        word: `seed_word(seed)`, or a 0-d int32 tensor with it.
        numbers: Python integers or 0-d int32 tensors, such as step, number of the tensor, number of the slot.

    Returns:
        A 0-d int32 tensor.

    Raises:
        ArgumentError: a tensor is not int32.

    >>> step = torch.tensor(3, dtype=torch.int32)
    >>> stream(seed_word(0), step, 2, 1) == stream(seed_word(0), 3, 2, 1)
    tensor(True)
    """
    out = torch.tensor(word, dtype=torch.int32, device="cpu") if isinstance(word, int) else word
    for number in numbers:
        out = mix(out, number)
    return out


def bits(index: Tensor, word: Tensor) -> Tensor:
    """32 random bits: element `index` of the stream `word`.

    A second word, mixed from `word`, enters after the first round of the hash. Streams whose counters `index ^ word`
    run over the same values therefore still differ.

    Args:
        index: int32 tensor, the number of each element in its tensor.
        word: 0-d int32 tensor from `stream` (or one that broadcasts with `index`).

    Returns:
        An int32 tensor shaped like `index`.

    Raises:
        ArgumentError: a tensor is not int32.

    >>> bits(torch.arange(2, dtype=torch.int32), stream(seed_word(0), 1))
    tensor([...], dtype=torch.int32)
    """
    _demand("bits", "index", index, torch.int32)
    key = mix(word, 0)
    return _last_rounds(_first_round(index ^ word) ^ key)


@_primitive
def dither(index: Tensor, word: Tensor, key: Tensor) -> Tensor:
    """32 bits for two numbers of `noise`: element `index` of the stream `word`, whose second word is `key`.

    Four elements of a block of 512, 128 apart, share one hash of their counter; each multiplies it by a factor of its
    own. Products of one uniform word with two such factors are points of a lattice whose shortest vector is within 7%
    of the longest possible: any two of the four are as good as independent, which is all that the variance of a sum of
    roundings depends on. `bits` costs twice as much, and shares nothing.

    Source: shifts and the first two factors of C. Wellons' hash prospector (`lowbias32`); the choice of multipliers by
    the shortest lattice vector, the spectral test, of Knuth, "Seminumerical Algorithms", section 3.3.4.
    """
    counter = (index >> _BLOCK) * (1 << _QUARTER) + (index & ((1 << _QUARTER) - 1))
    quarter = (index >> _QUARTER) & 3
    hashed = _fold(_fold(counter * _GOLDEN + word, 16) * _SPREAD, 15) ^ key
    return _fold(hashed * (quarter * _NEXT + _WORD), 16)


def noise(index: Tensor, word: Tensor, half: int = 0) -> Tensor:
    """Uniform integers in [0, 65535]: element `index` of the stream `word`.

    Each element of a stream has 32 bits, hence two independent numbers, `half` 0 and 1, for two slots.

    Args:
        index: int32 tensor, the number of each element in its tensor.
        word: 0-d int32 tensor from `stream` (or one that broadcasts with `index`).
        half: 0 for the lower 16 bits of the hash, 1 for the upper ones.

    Returns:
        An int32 tensor shaped like `index`.

    Raises:
        ArgumentError: a tensor is not int32.

    >>> noise(torch.arange(4, dtype=torch.int32), stream(seed_word(0), 1, 0, 0))
    tensor([...], dtype=torch.int32)
    """
    _demand("noise", "index", index, torch.int32)
    return (dither(index, word, mix(word, 0)) >> (16 * half)) & _LOWER_HALF


def _half(x: Tensor) -> Tensor:
    """What to add for rounding to nearest, ties to even."""
    return ((x.view(torch.int32) >> 16) & 1) + (_TIE - 1)


def _rounded(x: Tensor, addend: Tensor) -> Tensor:
    """Bits whose upper half is the result: a carry out of the lower half rounds away from 0.

    The carry could turn a nan into a zero, and the cut could turn it into an infinity.
    """
    return torch.where(torch.isnan(x), _NAN, x.view(torch.int32) + addend)


def _upper(bits: Tensor) -> Tensor:
    """The upper halves of 32 bits as bfloat16 numbers."""
    return (bits >> 16).to(torch.int16).view(torch.bfloat16)


@_primitive
def stochastic(x: Tensor, noise: Tensor) -> Tensor:
    """`x` rounded to one of the two bfloat16 numbers around it, with the mean exactly `x`.

    Let `f` be the lower 16 bits of `x`, so that `f / 65536` is how far `x` lies from the neighbour nearer to 0 to the
    one farther from 0. Adding `noise` carries into the upper bits for exactly `f` of its 65536 values. The result is
    the farther neighbour with chance `f / 65536`, hence the mean is `x`, for subnormal numbers too.

    What bfloat16 holds stays as it is: zeros with their sign, infinities, and every number up to the largest finite
    one, 3.3895e38. No `|x|` up to that number becomes infinite. A larger finite one becomes that number or infinity
    by the same rule, as if infinity were 2^128 (to nearest, it would become infinite from half way on). A nan stays a
    nan; its payload is not specified. The rule is symmetric: `stochastic(-x, noise) == -stochastic(x, noise)`.

    Args:
        x: float32 tensor.
        noise: int32 tensor that broadcasts with `x`, uniform in [0, 65535], from `noise`.

    Returns:
        A bfloat16 tensor shaped like `x`.

    Raises:
        ArgumentError: a tensor has another dtype.

    Source: arXiv 2010.06192 (stochastic rounding of weight updates).

    >>> x, n = torch.full((65536,), 1.001), torch.arange(65536, dtype=torch.int32)
    >>> bool(stochastic(x, n).double().mean() == x[0].double()), stochastic(x, n).unique().tolist()
    (True, [1.0, 1.0078125])
    """
    _demand("stochastic", "x", x, torch.float32)
    _demand("stochastic", "noise", noise, torch.int32)
    return _upper(_rounded(x, noise))


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """`x` as a bfloat16 number and a bfloat16 remainder: `high = nearest(x)`, `low = nearest(x - high)`.

    Ties go to even in `high`, as in torch, and away from zero in `low`, which is cheaper and as accurate.

    For `2^e <= |x| < 2^(e+1)` the remainder is at most `2^(e-8)` and exact in float32. Rounding it to 8 significant
    bits errs by at most `2^(e-17)`, and the sum in `join` is exact. Thus

        |join(*split(x)) - x| <= max(2^-17 |x|, 2^-134),

    the second term where the remainder is subnormal (`|x| < 2^-117`). bfloat16 alone errs by up to `2^(e-8)`: the 16
    bits more in memory give 9 significant bits more, 17 in all, and a step below `2^-17 |x|` can still be lost. This is
    Kahan's compensated summation: a step computed as `split(join(high, low) + step)` adds to the next step what this
    one could not store in `high`.

    `high` is always `x.to(torch.bfloat16)`. Where it is infinite or nan, `low` is 0, so that `join` gives `high` back;
    finite `x` from 3.3962e38 on become infinite, as in any rounding to nearest. A weight of -0 comes back as +0.

    Args:
        x: float32 tensor.

    Returns:
        `high` and `low`, bfloat16 tensors shaped like `x`.

    Raises:
        ArgumentError: `x` is not float32.

    Source: Kahan 1965; arXiv 2010.06192 (Kahan summation of weight updates).

    >>> high, low = split(torch.tensor([1.001, float("inf")]))
    >>> high.tolist(), low.tolist()
    ([1.0, inf], [0.00099945068359375, 0.0])
    """
    _demand("split", "x", x, torch.float32)
    return high_and_low(x)


@_primitive
def high_and_low(x: Tensor) -> tuple[Tensor, Tensor]:
    """`split`, of what is known to be float32."""
    bits = _rounded(x, _half(x))
    remainder = x - (bits & _UPPER_HALF).view(torch.float32)
    # Where `high` is infinite or nan the remainder is so too, and 0 takes its place.
    low = torch.where(remainder.abs() < torch.inf, remainder.view(torch.int32) + _TIE, 0)
    return _upper(bits), _upper(low)


def join(high: Tensor, low: Tensor) -> Tensor:
    """The float32 number that `split` took apart: `high + low`, exact for a pair from `split`.

    Args:
        high: bfloat16 tensor.
        low: bfloat16 tensor shaped like `high`.

    Returns:
        A float32 tensor.

    Raises:
        ArgumentError: a tensor is not bfloat16.

    Source: Kahan 1965.

    >>> w = torch.ones(1)
    >>> for _ in range(1000):
    ...     w = join(*split(w + 1e-3))
    >>> bool((w - 2).abs() < 1000 * (2**-17 + 2**-24))
    True
    """
    _demand("join", "high", high, torch.bfloat16)
    _demand("join", "low", low, torch.bfloat16)
    return high.to(torch.float32) + low.to(torch.float32)
