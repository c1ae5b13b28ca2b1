from __future__ import annotations

import math

import pytest
import torch

from dashpot.data.augment import crop, flip
from dashpot.errors import ArgumentError


def seeded_generator(key: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def distinct_pixels(examples: int = 200, channels: int = 2, height: int = 5, width: int = 4) -> torch.Tensor:
    """Return images whose pixels are all different and nonzero."""
    count = examples * channels * height * width
    return torch.arange(1.0, count + 1, dtype=torch.float64).reshape(examples, channels, height, width)


def test_flip_mirrors_whole_images():
    images = distinct_pixels()
    result = flip(images, seeded_generator())
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(result, images, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_flip_share_is_probability(share):
    """Take 4000 draws; the bound is four standard deviations, which are 0 for shares of 0 and 1."""
    images = torch.tensor([1.0, 2.0]).expand(4000, 1, 1, 2)
    actual = (flip(images, seeded_generator(), share)[:, 0, 0, 0] == 2).double().mean().item()
    assert abs(actual - share) <= 4 * math.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize("padding", [0, 1, 2, 6])
def test_crop_shifts_and_fills(padding):
    """Compare each crop with all possible shifts of the image."""
    images = distinct_pixels()
    height, width = images.shape[2:]
    moves = [(down, right) for down in range(-padding, padding + 1) for right in range(-padding, padding + 1)]
    candidates = torch.stack([shifted(images, down, right) for down, right in moves])
    shifts = set()
    for index, new in enumerate(crop(images, seeded_generator(), padding, fill=-1.0)):
        equal = (candidates[:, index] == new).flatten(1).all(1)
        matches = [move for move, same in zip(moves, equal.tolist(), strict=True) if same]
        empty = bool((new == -1).all())
        assert matches if empty else len(matches) == 1
        if not empty:
            shifts.add(matches[0])
    # In 200 draws from at most 25 shifts, a given shift is missing with a probability of 3e-4.
    if padding <= 2:
        assert set(moves) <= shifts
    assert all(abs(down) < height and abs(right) < width for down, right in shifts)


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Return `images` shifted pixel by pixel."""
    result = torch.full_like(images, -1.0)
    height, width = images.shape[2:]
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, :, row + down, column + right] = images[:, :, row, column]
    return result


def test_crop_shifts_are_uniform():
    """In 9000 draws, each of 9 shifts occurs 1000 times, to within five standard deviations of 30 each."""
    images = torch.arange(9.0).reshape(1, 1, 3, 3).expand(9000, 1, 3, 3)
    centres = crop(images, seeded_generator(), 1)[:, 0, 1, 1].long()
    assert all(abs(count - 1000) < 150 for count in torch.bincount(centres, minlength=9).tolist())


@pytest.mark.parametrize("change", [flip, crop])
def test_augmentation_is_pure_function_of_images_and_generator(change):
    images, before = distinct_pixels(), torch.get_rng_state()
    kept = images.clone()
    once, again, other = (change(images, seeded_generator(key)) for key in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(images, kept)
    assert torch.equal(before, torch.get_rng_state())
    assert (once.shape, once.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("change", [flip, crop])
def test_augmentation_keeps_device(change):
    """The meta device represents all other devices, since mixing devices raises an error there as well."""
    assert change(torch.empty(3, 1, 4, 4, device="meta"), seeded_generator()).device.type == "meta"


IMAGES = torch.zeros(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: flip(IMAGES[0], seeded_generator()),
            r"^flip: images must have shape \(examples, channels, height, width\), got shape",
        ),
        (
            lambda: crop([1], seeded_generator()),  # pyright: ignore[reportArgumentType]
            r"^crop: images must have shape \(examples, channels, height, width\), got \[1\]\.$",
        ),
        (lambda: flip(IMAGES, seeded_generator(), 1.5), r"^flip: share must be a number in \[0, 1\], got 1\.5\.$"),
        (lambda: crop(IMAGES, seeded_generator(), -1), r"^crop: padding must be an integer in \[0, inf\), got -1\.$"),
        (lambda: crop(IMAGES, seeded_generator(), 1.0), r"^crop: padding must be an integer in"),  # pyright: ignore[reportArgumentType]
        (
            lambda: crop(IMAGES, seeded_generator(), 1, math.nan),
            r"^crop: fill must be a number in \(-inf, inf\), got nan\.$",
        ),
    ],
)
def test_augmentation_with_invalid_argument_raises(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()
