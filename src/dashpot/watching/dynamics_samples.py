"""Samples of the elements of parameters, in float64, for the replay of steps."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from dashpot.engine.dtensor import is_dtensor, local
from dashpot.engine.eager import real_view
from dashpot.engine.native.kernel import structure
from dashpot.engine.sharding import is_reducing
from dashpot.engine.stage_errors import has_custom_stages
from dashpot.recipes.recipe import Recipe

ELEMENTS = 256
"""Largest number of sampled elements per tensor."""


_reducing: dict[Hashable, bool] = {}


class Bucket(NamedTuple):
    """Parameters whose sampled elements are replayed as one vector.

    Attributes:
        group: Index of the parameter group.
        params: The parameters.
        cuts: Sampled positions of each, in the flattened real view.
        sizes: Number of sampled elements of each.
    """

    group: int
    params: tuple[Tensor, ...]
    cuts: tuple[slice, ...]
    sizes: tuple[int, ...]

    @property
    def key(self) -> tuple[int, ...]:
        """Identities of the parameters."""
        return tuple(map(id, self.params))

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the sampled elements of tensors shaped like the parameters, as one float64 vector on the CPU."""
        parts = [flat(x)[cut] for x, cut in zip(tensors, self.cuts, strict=True)]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined.cpu().to(torch.float64, copy=True)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the elements of a vector by parameter."""
        return x.split(list(self.sizes))


def flat(x: Tensor) -> Tensor:
    """Return the flattened real view of the local shard of a tensor."""
    return real_view(local(x).detach().resolve_conj()).reshape(-1)


def cut_of(count: int, limit: int) -> slice:
    """Return at most `limit` positions, evenly spaced, with a stride that visits all rows and columns.

    >>> cut_of(10, 20), cut_of(131072, 256)
    (slice(0, 10, 1), slice(0, 130816, 511))
    """
    if count <= limit:
        return slice(0, count, 1)
    stride = count // limit
    while math.gcd(stride, count) > 1:  # a common factor could select a single column of a matrix
        stride -= 1
    return slice(0, stride * limit, stride)


def buckets(group: int, recipe: Recipe, params: Iterable[tuple[Tensor, Any]]) -> list[Bucket]:
    """Return the buckets of a group, given its parameters and a key of each, such as its step count.

    Parameters with equal keys share a bucket if all stages are elementwise. Tensors that stages reduce are complete.
    """
    whole = needs_whole_tensors(recipe)
    alone = whole or any(slot.shape == "per_tensor" for slot in recipe.slots)
    found: dict[Any, list[Tensor]] = {}
    for p, key in params:
        found.setdefault(p if alone else (key, p.device), []).append(p)
    return [_bucket(group, members, whole) for members in found.values()]


def buckets_of_samples(group: int, params: Iterable[Tensor]) -> list[Bucket]:
    """Return buckets by device."""
    found: dict[torch.device, list[Tensor]] = {}
    for p in params:
        found.setdefault(p.device, []).append(p)
    return [_bucket(group, members, whole=False) for members in found.values()]


def needs_whole_tensors(recipe: Recipe) -> bool:
    """Return whether a stage uses means or norms of a tensor, or may do so because it is custom."""
    if has_custom_stages(recipe):
        return True
    key = structure(recipe)
    if key not in _reducing:  # tracing takes milliseconds
        _reducing[key] = is_reducing(recipe)
    return _reducing[key]


def measurable(p: Tensor) -> str | None:
    """Return the reason why a parameter has no samples, or None."""
    if is_lazy(p):
        return "The parameter is not initialized."
    if local(p).numel() == 0:
        return "The parameter has no elements on this rank."
    return None


def unreplayable(p: Tensor, recipe: Recipe) -> str | None:
    """Return the reason why the step of a parameter is not replayed, or None."""
    if is_dtensor(p) and needs_whole_tensors(recipe):
        return "The method reduces over the whole tensor, which is sharded."
    return None


def _bucket(group: int, params: list[Tensor], whole: bool) -> Bucket:
    counts = [flat(p).numel() for p in params]
    cuts = [cut_of(count, count if whole else ELEMENTS) for count in counts]
    sizes = [len(range(cut.start, cut.stop, cut.step)) for cut in cuts]
    return Bucket(group, tuple(params), tuple(cuts), tuple(sizes))
