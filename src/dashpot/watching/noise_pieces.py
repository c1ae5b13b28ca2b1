"""Gradients of parts of a batch: of the backward passes of one step, and of the halves of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dashpot.curvature.local_ranks import side_evaluation
from dashpot.curvature.sharded import local_gradients, reshard_before_forward
from dashpot.curvature.state_guards import disable_hooks, preserve_gradients
from dashpot.engine.dtensor import has_dtensor, local
from dashpot.engine.eager import real_view
from dashpot.engine.sharding import shard_spec
from dashpot.utils.scalars import scalar_dtype
from dashpot.watching.probe import NO_LOSS, MeasurementError

SPARSE = "A gradient is sparse."
Gradients = dict[Tensor, Tensor]
"""Gradients (local shards) by parameter, as real tensors."""


class Squares:
    """Squared norms of gradients: plain, and weighted elementwise by `rates`.

    Args:
        rates: Elementwise weights >= 0 by parameter; None: no weighted norms.
    """

    def __init__(self, rates: Mapping[Tensor, Tensor] | None) -> None:
        self.rates = rates

    def of(self, p: Tensor, g: Tensor) -> Tensor:
        """Return both squared norms of the gradient of one parameter.

        `sum` adds in pairs, so that differences of squared norms are accurate; `vector_norm` does not.
        """
        squares = _wide(g).square()
        plain = squares.sum()
        rate = None if self.rates is None else self.rates.get(p)
        if rate is None:
            return torch.stack([plain, torch.zeros_like(plain)])
        if rate.numel() == 1:
            return torch.stack([plain, plain * rate.reshape(())])
        return torch.stack([plain, (squares * rate.view_as(g)).sum()])

    def of_all(self, grads: Gradients) -> Tensor:
        """Return both squared norms over all parameters, summed over shards, on the CPU."""
        return reduced((p, self.of(p, g)) for p, g in grads.items())


def reduced(parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sum of the local parts of parameters, summed over the shards of sharded parameters."""
    sums: dict[Any, Tensor] = {}
    for p, part in parts:
        spec = shard_spec(p)
        wide = part.to(scalar_dtype(part.device))
        sums[spec] = sums[spec] + wide.to(sums[spec].device) if spec in sums else wide
    whole = [part if spec is None else spec.all_reduce(part) for spec, part in sums.items()]
    return torch.stack([part.cpu().double() for part in whole]).sum(0) if whole else torch.zeros(2).double()


class PieceRecorder:
    """Hooks on parameters that record the gradient of every backward pass of one step, before it is reduced.

    Args:
        params: Parameters.
        squares: Norms to compute.

    Attributes:
        total: Sums of the gradients by parameter.
        sparse: Whether a gradient is sparse.
    """

    def __init__(self, params: Iterable[Tensor], squares: Squares) -> None:
        self.squares = squares
        self.total: Gradients = {}
        self.sparse = False
        self._parts: dict[Tensor, list[Tensor]] = {}  # squares of each pass; empty after a single pass
        self._handles = [p.register_hook(self._hook(p)) for p in params if p.requires_grad and p.is_leaf]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def passes(self) -> int:
        """Number of backward passes."""
        return max((max(1, len(parts)) for parts in self._parts.values()), default=0)

    def _hook(self, p: Tensor) -> Any:
        hook: Any = partial(self._add, p)
        hook.__torch_unserializable__ = True  # torch omits the hook from pickles without a warning
        return hook

    @torch.no_grad()
    def _add(self, p: Tensor, grad: Tensor) -> None:
        if grad.layout != torch.strided:
            self.sparse = True
            return
        g = real_view(local(grad.detach()).resolve_conj())
        if p not in self.total:
            # A copy, since this gradient may become `p.grad`, which autograd changes in place.
            self.total[p], self._parts[p] = _wide(g, copy=True), []
            return
        if not self._parts[p]:
            self._parts[p].append(self.squares.of(p, self.total[p]))
        self._parts[p].append(self.squares.of(p, g))
        self.total[p] += g

    def sum_of_squares(self) -> Tensor:
        """Return the sum of both squared norms over all passes and parameters, on this rank."""
        for p, parts in self._parts.items():
            if not parts:
                parts.append(self.squares.of(p, self.total[p]))
        return reduced((p, torch.stack(parts).sum(0)) for p, parts in self._parts.items())


def _wide(g: Tensor, *, copy: bool = False) -> Tensor:
    return g.to(torch.promote_types(g.dtype, torch.float32), copy=copy)


class ExtraPasses:
    """Gradients of ranges of the current batch, without side effects on the training.

    Gradients, buffers, hooks and random states are restored. Every pass draws its own dropout masks. DDP does not
    reduce these gradients; FSDP does.

    Args:
        params: Parameters.
        sliced: Function of (first, last) that returns the mean loss over a range of examples, with a graph.
    """

    def __init__(self, params: Sequence[Tensor], sliced: Callable[[int, int], Tensor]) -> None:
        self.params, self.sliced = list(params), sliced

    def gradients(self, ranges: Sequence[tuple[int, int]]) -> list[Gradients]:
        """Return the gradient of each range.

        Raises:
            MeasurementError: If a loss has no graph, or a gradient is sparse.
        """
        with (
            side_evaluation(self.params),
            preserve_gradients(self.params) as keep,
            reshard_before_forward(),
            torch.enable_grad(),
        ):
            return [self._gradient(first, last, keep) for first, last in ranges]

    def _gradient(self, first: int, last: int, keep: Callable[[Tensor], set[Tensor]]) -> Gradients:
        loss = self.sliced(first, last)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.grad_fn is None:
            raise MeasurementError(NO_LOSS)
        with disable_hooks({*self.params, *keep(loss)}):
            loss.backward()
        if any(p.grad is not None and p.grad.layout != torch.strided for p in self.params):
            raise MeasurementError(SPARSE)
        if has_dtensor(self.params):
            grads = local_gradients("NoiseScale", self.params)
        else:
            grads = [p.grad for p in self.params]
        for p in self.params:
            p.grad = None
        return {p: real_view(g.detach()) for p, g in zip(self.params, grads, strict=True) if g is not None}


def combination(a: float, x: Gradients, b: float, y: Gradients) -> Gradients:
    """Return a x + b y; missing gradients are 0."""
    found: Gradients = {}
    for p in {**x, **y}:
        terms = [factor * grads[p] for factor, grads in ((a, x), (b, y)) if p in grads]
        found[p] = terms[0] if len(terms) == 1 else terms[0] + terms[1]
    return found


def inner_product(x: Gradients, y: Gradients) -> float:
    """Return the inner product over all parameters and shards."""
    shared = [(p, x[p], y[p]) for p in x if p in y]
    return float(reduced((p, torch.stack([(_wide(a) * b).sum()] * 2)) for p, a, b in shared)[0])
