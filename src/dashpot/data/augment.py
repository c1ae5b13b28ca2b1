"""Random augmentation of image batches, by pure functions of the batch and a generator.

Random numbers are drawn on the CPU from the given generator, so that results are the same on every device. The global
random state is neither read nor changed. `Batches(augment=...)` passes a new generator at every step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dashpot.constraints import SHARE, Interval, check, shown
from dashpot.errors import ArgumentError

__all__ = ["crop", "flip"]


def flip(images: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    """Flip each image horizontally with probability `share`.

    Args:
        images: Images of shape (examples, channels, height, width).
        generator: A CPU generator; one number is drawn for each image.
        share: Probability of a flip, in [0, 1].

    Returns:
        A new tensor of the same shape.

    Raises:
        ArgumentError: If `images` is not 4-dimensional or `share` is out of range.

    >>> flip(torch.tensor([[[[1.0, 2.0]]]]), torch.Generator().manual_seed(0), share=1)
    tensor([[[[2., 1.]]]])
    """
    _check_images("flip", images)
    check("flip", "share", share, SHARE)
    mirrored = torch.rand(len(images), generator=generator) < share
    return torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)


def crop(images: Tensor, generator: torch.Generator, padding: int = 2, fill: float = 0.0) -> Tensor:
    """Pad each image with `fill` and take a random crop of the original size.

    Vertical and horizontal shifts are independent and uniform on -padding, ..., padding.

    Args:
        images: Images of shape (examples, channels, height, width).
        generator: A CPU generator; two numbers are drawn for each image.
        padding: Number of pixels added on each side; >= 0.
        fill: Value of the padded pixels; for normalized images, the normalized background.

    Returns:
        A new tensor of the same shape.

    Raises:
        ArgumentError: If `images` is not 4-dimensional, or `padding` or `fill` is out of range.

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
    # Advanced indices that are separated by a slice become the first dimensions of the result, which therefore has the
    # shape (examples, height, width, channels).
    return padded[example, :, rows, columns].permute(0, 3, 1, 2)


def _check_images(owner: str, images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.ndim != 4:
        got = f"shape {tuple(images.shape)}" if isinstance(images, Tensor) else shown(images)
        raise ArgumentError(f"{owner}: images must have shape (examples, channels, height, width), got {got}.")
