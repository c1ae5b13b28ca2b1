"""Random changes of whole batches of images, each a pure function of the batch and a generator.

The random numbers are drawn on the CPU from the generator that is handed in, whatever the device of the images, so that
every device sees the same images. The global random state plays no part. `Batches(augment=...)` hands in a generator
of its own for every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dashpot.constraints import SHARE, Interval, check
from dashpot.errors import ArgumentError

__all__ = ["crop", "flip"]


def flip(images: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Mirror each image, left to right, with probability `share`.

    Args:
        images: shape (examples, channels, height, width).
        generator: a CPU generator; one number is drawn for each image.
        share: in [0, 1].

    Returns:
        A new tensor of the same shape.

    Raises:
        ArgumentError: an argument is out of range or of another shape.

    >>> flip(torch.tensor([[[[1.0, 2.0]]]]), torch.Generator().manual_seed(0), share=1)
    tensor([[[[2., 1.]]]])
    """
    _check_images("flip", images)
    check("flip", "share", share, SHARE)
    mirrored = torch.rand(len(images), generator=generator) < share
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def crop(images: Tensor, generator: torch.Generator, padding: int = 2, fill: float = 0.0) -> Tensor:
    """Shift each image by up to `padding` pixels either way: pad it with `fill`, then cut a random part of its size.

    Every shift, vertical and horizontal apart, is as likely as any other.

    Args:
        images: shape (examples, channels, height, width).
        generator: a CPU generator; two numbers are drawn for each image.
        padding: pixels on each side, at least 0.
        fill: the value of the pixels that come in from outside. For images that have been normalised it is what the
            background has become.

    Returns:
        A new tensor of the same shape.

    Raises:
        ArgumentError: an argument is out of range or of another shape.

    >>> crop(torch.ones(1, 1, 2, 2), torch.Generator().manual_seed(4), padding=1)
    tensor([[[[0., 1.],
              [0., 1.]]]])
    """
    _check_images("crop", images)
    check("crop", "padding", padding, Interval(0, math.inf, "left", integer=True))
    check("crop", "fill", fill, Interval())
    count, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, count, 1), generator=generator).to(images.device)
    padded = nn.functional.pad(images, (padding,) * 4, value=fill)
    rows = (top + torch.arange(height, device=images.device))[:, :, None]
    columns = (left + torch.arange(width, device=images.device))[:, None, :]
    example = torch.arange(count, device=images.device)[:, None, None]
    # The slice between the indices puts the channels last: (examples, height, width, channels).
    return padded[example, :, rows, columns].permute(0, 3, 1, 2)


def _check_images(owner: str, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else repr(images)
        raise ArgumentError(f"{owner}: images must be a tensor (examples, channels, height, width), got {got}.")
