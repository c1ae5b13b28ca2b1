from __future__ import annotations

import math

import pytest
import torch

from dashpot.data.augment import crop, flip
from dashpot.errors import ArgumentError


def drawn(key: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(key)


def numbered(examples: int = 200, channels: int = 2, height: int = 5, width: int = 4) -> torch.Tensor:
    """Images of which no two pixels are alike, and none is 0."""
    count = examples * channels * height * width
    return torch.arange(1.0, count + 1, dtype=torch.float64).reshape(examples, channels, height, width)


def test_an_image_is_mirrored_as_a_whole_or_left_alone():
    images = numbered()
    result = flip(images, drawn())
    mirrored = [torch.equal(new, old.flip(-1)) for new, old in zip(result, images, strict=True)]
    same = [torch.equal(new, old) for new, old in zip(result, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))


@pytest.mark.parametrize("share", [0, 0.25, 0.5, 1])
def test_the_share_of_mirrored_images_is_the_one_asked_for(share):
    """4000 draws: the bound is four standard deviations, and exact for 0 and 1."""
    images = torch.tensor([1.0, 2.0]).expand(4000, 1, 1, 2)
    found = (flip(images, drawn(), share)[:, 0, 0, 0] == 2).double().mean().item()
    assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize("padding", [0, 1, 2, 6])
def test_a_crop_is_the_image_shifted_and_the_rest_filled(padding):
    """Against a loop over images; the shift is read off where the image's own pixels went."""
    images = numbered()
    height, width = images.shape[2:]
    shifts = set()
    for new, old in zip(crop(images, drawn(), padding, fill=-1.0), images, strict=True):
        found = [
            (down, right)
            for down in range(-padding, padding + 1)
            for right in range(-padding, padding + 1)
            if torch.equal(new, shifted(old, down, right))
        ]
        gone = bool((new == -1).all())
        assert found if gone else len(found) == 1
        if not gone:
            shifts.add(found[0])
    # 200 draws of at most 25 shifts that leave something: each is missed with a probability of 3e-4.
    most = min(padding, 2)
    assert {
        (down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)
    } <= shifts or padding > 2
    assert all(abs(down) < height and abs(right) < width for down, right in shifts)


def shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """`image` moved, one pixel at a time."""
    result = torch.full_like(image, -1.0)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                result[:, row + down, column + right] = image[:, row, column]
    return result


def test_every_shift_is_as_likely_as_any_other():
    """9000 draws of 9 shifts: each is met 1000 times, give or take five standard deviations (30 each)."""
    images = torch.arange(9.0).reshape(1, 1, 3, 3).expand(9000, 1, 3, 3)
    centres = crop(images, drawn(), 1)[:, 0, 1, 1].long()
    assert all(abs(count - 1000) < 150 for count in torch.bincount(centres, minlength=9).tolist())


@pytest.mark.parametrize("change", [flip, crop])
def test_the_result_is_a_pure_function_of_the_images_and_the_generator(change):
    images, before = numbered(), torch.get_rng_state()
    kept = images.clone()
    once, again, other = (change(images, drawn(key)) for key in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(images, kept)
    assert torch.equal(before, torch.get_rng_state())
    assert (once.shape, once.dtype) == (images.shape, images.dtype)


@pytest.mark.parametrize("change", [flip, crop])
def test_images_on_another_device_stay_there(change):
    """The meta device stands for any: what mixes devices raises there too."""
    assert change(torch.empty(3, 1, 4, 4, device="meta"), drawn()).device.type == "meta"


IMAGES = torch.zeros(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: flip(IMAGES[0], drawn()),
            r"^flip: images must be a tensor \(examples, channels, height, width\), got shape",
        ),
        (
            lambda: crop([1], drawn()),  # pyright: ignore[reportArgumentType]
            r"^crop: images must be a tensor \(examples, channels, height, width\), got \[1\]\.$",
        ),
        (lambda: flip(IMAGES, drawn(), 1.5), r"^flip: share must be a number in \[0, 1\], got 1\.5\.$"),
        (lambda: crop(IMAGES, drawn(), -1), r"^crop: padding must be an integer in \[0, inf\), got -1\.$"),
        (lambda: crop(IMAGES, drawn(), 1.0), r"^crop: padding must be an integer in"),  # pyright: ignore[reportArgumentType]
        (lambda: crop(IMAGES, drawn(), 1, math.nan), r"^crop: fill must be a number in \(-inf, inf\), got nan\.$"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(call, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        call()
