"""Statistics of sampled elements, as JSON-serializable numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from dashpot.analysis.step_recording import statistics_of


def statistics_row(x: Tensor | None, count: int) -> list[float] | None:
    """Return sup, mean, standard deviation and norm of a sample; the norm is that of `count` elements."""
    if x is None:
        return None
    *others, norm = statistics_of(x)
    return [*others, norm * (count / max(1, len(x))) ** 0.5]


def relative(x: Tensor | None, reference: Tensor) -> float | None:
    """Return the norm of `x` over that of a reference; None if either is missing or 0."""
    size = float(torch.linalg.vector_norm(reference))
    return None if x is None or size == 0 else float(torch.linalg.vector_norm(x)) / size


def real_count(p: Tensor) -> int:
    """Return the number of elements of the real view of a tensor."""
    return p.numel() * (2 if p.is_complex() else 1)
