"""Sharding of tensors over the dimensions of a mesh, and reductions over shards: means, norms and finiteness.

All ranks must make the same decisions, so no decision depends on the local shard. This includes the decision whether to
communicate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from dashpot.engine.dtensor import is_dtensor, local
from dashpot.engine.native.trace import trace_float32
from dashpot.engine.rounding import stream
from dashpot.recipes.recipe import Recipe
from dashpot.stages.base import Context

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class ShardSpec(NamedTuple):
    """Sharding of a tensor over the dimensions `dims` of a mesh. The tensor is replicated over all other dimensions."""

    mesh: DeviceMesh
    dims: tuple[int, ...]

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum `x` in place over the ranks that hold the shards of one replica."""
        return _all_reduce(x, self.mesh, self.dims)

    def shard_index(self) -> int:
        """Return the index of the local shard, which is the same in all replicas."""
        index, coordinate = 0, self.mesh.get_coordinate() or ()
        for dim in self.dims if coordinate else ():
            index = index * self.mesh.size(dim) + coordinate[dim]
        return index


def _all_reduce(x: Tensor, mesh: DeviceMesh, dims: Sequence[int]) -> Tensor:
    from torch.distributed import all_reduce

    if mesh.get_coordinate() is not None:  # ranks outside the mesh do not participate
        for dim in dims:
            all_reduce(x, group=mesh.get_group(dim))
    return x


def shard_spec(p: Tensor) -> ShardSpec | None:
    """Return the sharding of a DTensor, or None for a plain tensor."""
    if not is_dtensor(p):
        return None
    x = cast(Any, p)
    return ShardSpec(x.device_mesh, tuple(i for i, how in enumerate(x.placements) if not how.is_replicate()))


def shard_rng_stream(ordinal: int, spec: ShardSpec | None) -> int:
    """Return the stream number of the local shard, for stochastic rounding.

    Elements are indexed within their shard, so each shard needs a different stream number. All replicas of a shard have
    the same stream number. If the world size changes, the random numbers of a tensor change: rounding remains unbiased,
    but is not reproduced bit for bit.

    Args:
        ordinal: Stream number of the whole tensor.
        spec: Sharding of the tensor; None for a plain tensor.
    """
    return int(stream(ordinal, spec.shard_index())) if spec is not None and spec.dims else ordinal


class ShardedTensorContext:
    """Reductions over a sharded tensor, computed in float64 and then rounded. The results are equal on all ranks.

    Args:
        spec: Sharding of the tensor.
        count: Number of real elements in the whole tensor.
    """

    def __init__(self, spec: ShardSpec, count: int) -> None:
        self._shard_spec, self._count = spec, count

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of all elements as a 0-d tensor."""
        if x.dim() == 0:
            return x
        return (self._shard_spec.all_reduce(x.sum(dtype=torch.float64)) / self._count).to(x.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm as a 0-d tensor."""
        if x.dim() == 0:
            return x.abs()
        return self._shard_spec.all_reduce(x.to(torch.float64).square().sum()).sqrt().to(x.dtype)


class Sharding:
    """Sharding of all tensors of a step. Without arguments, all tensors are plain.

    Attributes:
        specs: The distinct shardings, in the order of the tensors, which is the same on all ranks.
        contexts: Reductions, by position, for the tensors that have an entry in `eager_reasons`.
        eager_reasons: The reason why a sharded tensor has no kernel, by position. Kernels do not communicate.
        remote_elements: Number of real elements on other ranks that kernels may update.

    Args:
        params: The parameters.
        recipes: The recipe of each parameter.
    """

    def __init__(self, params: Sequence[Tensor] = (), recipes: Sequence[Recipe] = ()) -> None:
        self._by_param = list(map(shard_spec, params))
        self.specs = tuple(dict.fromkeys(self._by_param)) or (None,)
        self.contexts: dict[int, Context] = {}
        self.eager_reasons: dict[int, str] = {}
        self.remote_elements = 0
        reducing = {id(recipe): is_reducing(recipe) for recipe in recipes} if self.specs != (None,) else {}
        for i, (p, recipe, spec) in enumerate(zip(params, recipes, self._by_param, strict=True)):
            if spec is None or not spec.dims or spec.mesh.get_coordinate() is None:
                continue
            reduces = reducing[id(recipe)]
            # Empty shards are stepped too, to update per-tensor slots.
            if reduces or local(p).numel() == 0:
                self.contexts[i] = ShardedTensorContext(spec, _reals(p))
                self.eager_reasons[i] = (
                    "its means and norms are reduced over ranks" if reduces else "its shard is empty"
                )
            self.remote_elements += 0 if reduces else _reals(p) - _reals(local(p))

    def spec(self, i: int) -> ShardSpec | None:
        """Return the sharding of tensor `i`."""
        return self._by_param[i] if self._by_param else None

    def group_by_spec(self, positions: Sequence[int]) -> Iterator[tuple[ShardSpec | None, list[int]]]:
        """Yield each distinct sharding with the positions of the tensors that have this sharding."""
        for spec in self.specs:
            if group := [i for i in positions if self.spec(i) == spec]:
                yield spec, group


def _reals(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)


def is_reducing(recipe: Recipe) -> bool:
    """Check whether any stage, active or not, uses means or norms. If a stage cannot be traced, return True."""
    found = trace_float32(recipe, active=False)
    return found is None or any(x.level > 0 for x in (*found.arrays.values(), *found.per_tensor.values()))


def global_norm_and_finite(local_values: Mapping[ShardSpec | None, tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
    """Reduce the gradient norm and finiteness over ranks, with a single all-reduce if all shardings are equal.

    Args:
        local_values: The norm of the local shards and whether they are finite, by sharding, in the order of the
            parameters. The key None is for plain tensors. Plain tensors are equal on all ranks.

    Returns:
        The norm and whether all elements are finite, equal on all ranks.
    """
    specs = [spec for spec in local_values if spec is not None]
    device = torch.device(specs[0].mesh.device_type)
    pairs = {spec: _square_and_nonfinite(*values, device) for spec, values in local_values.items()}
    last = max(specs, key=lambda spec: len(spec.dims))  # the last reduction also distributes the flags of the others
    for spec in specs:
        if spec is not last:
            spec.all_reduce(pairs[spec])
    pairs[last][1] = torch.stack([pair[1] for pair in pairs.values()]).sum()
    reduced = last.all_reduce(pairs[last])
    nonfinite = reduced[1:]
    for mesh in dict.fromkeys(spec.mesh for spec in specs):
        remaining = [dim for dim in range(mesh.ndim) if mesh != last.mesh or dim not in last.dims]
        _all_reduce(nonfinite, mesh, remaining)
    norm = torch.stack([pair[0] for pair in pairs.values()]).sum().sqrt()
    return norm, bool(nonfinite == 0) if device.type == "cpu" else (nonfinite == 0).squeeze()


def _square_and_nonfinite(norm: Tensor, finite: Any, device: torch.device) -> Tensor:
    """Return a float64 tensor of two numbers: the squared norm, and 0 if all elements are finite or 1 otherwise."""
    finite = finite if isinstance(finite, Tensor) else torch.tensor(finite, device="cpu")
    wide = norm.detach().to(device, torch.float64)
    return torch.stack([wide.square(), 1.0 - finite.to(device, torch.float64)])
