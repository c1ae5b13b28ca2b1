"""How tensors are divided over processes, and what is summed over all of them: means and norms.

Every process must take the same decisions, so none depends on the piece that is here, not even whether to communicate.
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

__all__ = ["Division", "MeshContext", "Spread", "agreed", "numbered", "spread_of"]


class Spread(NamedTuple):
    """How the elements of a tensor are divided: over the dimensions `dims` of a mesh; it is repeated over the rest."""

    mesh: DeviceMesh
    dims: tuple[int, ...]

    def total(self, x: Tensor) -> Tensor:
        """`x` summed over the processes that hold the pieces of one copy; written in place."""
        return _summed(x, self.mesh, self.dims)

    def piece(self) -> int:
        """The number of the piece that is here; the same wherever it is repeated."""
        number, place = 0, self.mesh.get_coordinate() or ()
        for dim in self.dims if place else ():
            number = number * self.mesh.size(dim) + place[dim]
        return number


def _summed(x: Tensor, mesh: DeviceMesh, dims: Sequence[int]) -> Tensor:
    from torch.distributed import all_reduce

    if mesh.get_coordinate() is not None:  # a process outside the mesh holds nothing and is not waited for
        for dim in dims:
            all_reduce(x, group=mesh.get_group(dim))
    return x


def spread_of(p: Tensor) -> Spread | None:
    """How a DTensor is divided; None for a plain tensor."""
    if not is_dtensor(p):
        return None
    x = cast(Any, p)
    return Spread(x.device_mesh, tuple(i for i, how in enumerate(x.placements) if not how.is_replicate()))


def numbered(ordinal: int, spread: Spread | None) -> int:
    """The number that tells a tensor's random rounding from that of others, here made one for each piece.

    Elements are numbered by their place in the piece, so pieces must differ in this number. Copies of a piece have the
    same and round alike. Divided over more or fewer processes, a tensor draws other numbers: a run that goes on so is
    as unbiased as before, but not bit for bit the run it would have been.
    """
    return int(stream(ordinal, spread.piece())) if spread is not None and spread.dims else ordinal


class MeshContext:
    """Reductions over a tensor of `count` numbers of which a piece is here; float64 until the last rounding.

    What has no dimension, such as the mean of something else, is the same everywhere already.
    """

    def __init__(self, spread: Spread, count: int) -> None:
        self._spread, self._count = spread, count

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all elements, 0-d."""
        if x.dim() == 0:
            return x
        return (self._spread.total(x.sum(dtype=torch.float64)) / self._count).to(x.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """The Frobenius norm, 0-d."""
        if x.dim() == 0:
            return x.abs()
        return self._spread.total(x.to(torch.float64).square().sum()).sqrt().to(x.dtype)


class Division:
    """How the tensors of a step are divided; without arguments, of plain tensors.

    `kinds` are the different ways in the order of the tensors, which is the same in every process. `contexts` tell how
    to reduce over tensors that have one in `refused`, by position: kernels do not communicate. `elsewhere` counts the
    numbers that kernels of other processes may take.
    """

    def __init__(self, params: Sequence[Tensor] = (), recipes: Sequence[Recipe] = ()) -> None:
        self._spreads = list(map(spread_of, params))
        self.kinds = tuple(dict.fromkeys(self._spreads)) or (None,)
        self.contexts: dict[int, Context] = {}
        self.refused: dict[int, str] = {}
        self.elsewhere = 0
        reducing = {id(recipe): _reduces(recipe) for recipe in recipes} if self.kinds != (None,) else {}
        for i, (p, recipe, spread) in enumerate(zip(params, recipes, self._spreads, strict=True)):
            if spread is None or not spread.dims or spread.mesh.get_coordinate() is None:
                continue
            sums = reducing[id(recipe)]
            # An empty piece steps as well: numbers that are kept once for the whole tensor must go on with it.
            if sums or local(p).numel() == 0:
                self.contexts[i] = MeshContext(spread, _reals(p))
                reason = "its means and norms are sums over several processes" if sums else "no element of it is here"
                self.refused[i] = reason
            self.elsewhere += 0 if sums else _reals(p) - _reals(local(p))

    def spread(self, i: int) -> Spread | None:
        """How tensor `i` is divided."""
        return self._spreads[i] if self._spreads else None

    def parted(self, positions: Sequence[int]) -> Iterator[tuple[Spread | None, list[int]]]:
        """Positions of tensors that are divided alike, together."""
        for kind in self.kinds:
            if alike := [i for i in positions if self.spread(i) == kind]:
                yield kind, alike


def _reals(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)


def _reduces(recipe: Recipe) -> bool:
    """True where a stage, idle or not, asks for a mean or a norm; and where it cannot be told."""
    found = trace_float32(recipe, active=False)
    return found is None or any(x.level > 0 for x in (*found.arrays.values(), *found.per_tensor.values()))


def agreed(here: Mapping[Spread | None, tuple[Tensor, Any]]) -> tuple[Tensor, Any]:
    """(norm, whether all is finite) of tensors of which pieces are here: the same answer in every process.

    `here` holds the two for the pieces, by how their tensors are divided, in the order of the parameters; None stands
    for plain tensors, which every process holds alike. One sum over the mesh where all are divided alike.
    """
    spreads = [spread for spread in here if spread is not None]
    device = torch.device(spreads[0].mesh.device_type)
    pairs = {spread: _pair(*found, device) for spread, found in here.items()}
    last = max(spreads, key=lambda spread: len(spread.dims))  # it carries what the others found to all its processes
    for spread in spreads:
        if spread is not last:
            spread.total(pairs[spread])
    pairs[last][1] = torch.stack([pair[1] for pair in pairs.values()]).sum()
    squares = last.total(pairs[last])
    bad = squares[1:]
    for mesh in dict.fromkeys(spread.mesh for spread in spreads):
        unasked = [dim for dim in range(mesh.ndim) if mesh != last.mesh or dim not in last.dims]
        _summed(bad, mesh, unasked)
    norm = torch.stack([pair[0] for pair in pairs.values()]).sum().sqrt()
    return norm, bool(bad == 0) if device.type == "cpu" else (bad == 0).squeeze()


def _pair(norm: Tensor, finite: Any, device: torch.device) -> Tensor:
    """(square of the norm, 1 where not all is finite), float64."""
    finite = finite if isinstance(finite, Tensor) else torch.tensor(finite, device="cpu")
    wide = norm.detach().to(device, torch.float64)
    return torch.stack([wide.square(), 1.0 - finite.to(device, torch.float64)])
