from __future__ import annotations

import pytest
import torch

from dashpot.data.windows import Windows, blocks
from dashpot.errors import ArgumentError

TOKENS = torch.arange(50)


def windows(**changes) -> Windows:
    return Windows(**{"tokens": TOKENS, "block": 4, "batch_size": 3, "steps": 5, "seed": 0} | changes)


def test_windows_are_contiguous_and_targets_are_next_tokens():
    for x, y in windows().epoch(0):
        assert x.shape == y.shape == (3, 4)
        assert torch.equal(x, x[:, :1] + torch.arange(4))
        assert torch.equal(y, x + 1)


def test_windows_depend_only_on_seed_epoch_and_step():
    one, two = windows(), windows()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one.epoch(1), two.epoch(1), strict=True))
    first = next(one.epoch(0))[0]
    for other in (next(one.epoch(1))[0], next(windows(seed=1).epoch(0))[0], list(one.epoch(0))[1][0]):
        assert not torch.equal(first, other)
    before = torch.get_rng_state()
    list(one)
    assert torch.equal(before, torch.get_rng_state())


def test_windows_reach_every_position_uniformly():
    starts = torch.cat([x[:, 0] for x, _ in windows(block=47, batch_size=1000, steps=1).epoch(0)])
    counts = torch.bincount(starts, minlength=3)
    assert len(counts) == 3  # starts 0 to 2: the last target is the last token
    assert counts.min() > 260  # 1000 draws of 3 positions: expected 333, deviation 15


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_batches_are_int64_for_every_type_of_tokens(dtype):
    x, y = next(windows(tokens=TOKENS.to(dtype)).epoch(0))
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x, next(windows().epoch(0))[0])
    inputs, targets = blocks(TOKENS.to(dtype), 7)
    assert inputs.dtype == targets.dtype == torch.int64


def test_windows_have_length_and_size():
    assert len(windows()) == len(list(windows())) == 5
    assert windows().size_of(2) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block": 0}, r"Windows: block must be an integer in \[1, inf\), got 0"),
        ({"batch_size": 1.5}, r"Windows: batch_size must be an integer in \[1, inf\), got 1.5"),
        ({"steps": 0}, r"Windows: steps must be"),
        ({"seed": -1}, r"Windows: seed must be"),
        ({"block": 50}, r"tokens must have at least block \+ 1 = 51 elements, got 50"),
        ({"tokens": TOKENS[None]}, "tokens must be a tensor of one dimension"),
        ({"tokens": [1, 2, 3]}, "tokens must be a tensor of one dimension"),
    ],
)
def test_windows_with_invalid_argument_raises(changes, message):
    with pytest.raises(ArgumentError, match=message):
        windows(**changes)


@pytest.mark.parametrize(("length", "count"), [(5, 1), (8, 1), (9, 2), (50, 12)])
def test_blocks_cover_the_sequence_without_overlap(length, count):
    x, y = blocks(TOKENS[:length], 4)
    assert x.shape == y.shape == (count, 4)
    assert torch.equal(x.flatten(), TOKENS[: 4 * count])
    assert torch.equal(y.flatten(), TOKENS[1 : 4 * count + 1])


@pytest.mark.parametrize(("tokens", "block"), [(TOKENS[:4], 4), (TOKENS[:0], 1)])
def test_blocks_of_short_sequence_raises(tokens, block):
    with pytest.raises(ArgumentError, match=r"blocks: tokens must have at least block \+ 1"):
        blocks(tokens, block)


def test_windows_with_negative_epoch_raises():
    with pytest.raises(ArgumentError, match="epoch"):
        windows().epoch(-1)
