"""Noise of a batch from the gradients of its halves."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dashpot.watching.noise_pieces import ExtraPasses, Gradients, Squares, combination, inner_product

_VERIFY = 10
"""Number of measurements from halves after which the gradient of the second half is computed, not subtracted."""


class Pair(NamedTuple):
    """Sums of squared gradients, plain and weighted by the rates, as pairs."""

    squares: Tensor  # of the summands
    total: Tensor  # of the sum
    pieces: int
    batch: float
    source: str


class HalvesMode:
    """Gradients of the halves of a batch, by one or two extra passes.

    The second half follows from the first half and the gradient of the step, g_2 = 2 g - g_1, if the loss is a mean
    over examples that are independent of each other. Two passes verify this at the first measurement and at every tenth
    one: batch normalization, dropout, penalties in the loss and other changes of the gradients fail the check, and all
    measurements then use two passes.
    """

    def __init__(self) -> None:
        self.trusted = 0  # number of measurements for which one pass suffices

    def gradients(self, passes: ExtraPasses, size: int, whole: Gradients | None) -> list[Gradients]:
        """Return the gradients of both halves; `whole` is that of the step, without clipping, or None."""
        middle = size // 2
        if whole is not None and self.trusted > 0:
            self.trusted -= 1
            (first,) = passes.gradients([(0, middle)])
            return [first, combination(size / (size - middle), whole, -middle / (size - middle), first)]
        first, second = passes.gradients([(0, middle), (middle, size)])
        if whole is not None:
            mean = combination(middle / size, first, 1 - middle / size, second)
            error, noise = combination(1, whole, -1, mean), combination(0.5, first, -0.5, second)
            # The error of g adds to the noise, so that the trace is too large by this share.
            self.trusted = _VERIFY if inner_product(error, error) < 1e-4 * inner_product(noise, noise) else 0
        return [first, second]


def pair_of_halves(halves: list[Gradients], size: int, replicas: int, squares: Squares) -> Pair:
    """Return the measurement of two halves whose sizes may differ by one."""
    first, second = halves
    share = (size // 2) / size
    mean = combination(share, first, 1 - share, second)
    difference = squares.of_all(combination(1, first, -1, second))
    total = squares.of_all(mean)
    # Summands of two equal halves with the trace b_1 b_2/B |g_1 - g_2|^2 of the unequal ones.
    trace = share * (1 - share) * difference
    return Pair((total + trace) / 2, total, 2, float(size * replicas), "halves")
