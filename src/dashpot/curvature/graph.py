"""Traversal of autograd graphs, to find the leaves of a loss and the operations without a second derivative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointFunction

from dashpot._torch_private import autograd_function


def _nodes(roots: Iterable[Tensor]) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [root.grad_fn for root in roots]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [after for after, _ in node.next_functions]


def leaves(loss: Tensor) -> set[Tensor]:
    """Return the leaf tensors that receive a gradient in a backward pass from `loss`."""
    found = (getattr(node, "variable", None) for node in _nodes([loss]))
    return {leaf for leaf in found if leaf is not None}


def custom_function(roots: Iterable[Tensor]) -> str | None:
    """Return the name of a `torch.autograd.Function` in the graph of the tensors, or None."""
    return next((kind.__name__ for node in _nodes(roots) if (kind := autograd_function(node))), None)


_ONCE = once_differentiable(lambda ctx: None).__code__


def has_reentrant_checkpoint(roots: Iterable[Tensor]) -> bool:
    """Return True if the graph contains reentrant checkpointing, whose parameters are not part of the outer graph."""
    return any(autograd_function(node) is CheckpointFunction for node in _nodes(roots))


def once_differentiable_function(roots: Iterable[Tensor]) -> str | None:
    """Return the name of a function in the graph of the tensors that has no second derivative, or None.

    torch silently omits the contribution of such a function to a Hessian-vector product, since the gradients that the
    function returns are disconnected from the graph.
    """
    for node in _nodes(roots):
        function = autograd_function(node)
        if function is not None and getattr(function.backward, "__code__", None) is _ONCE:
            return function.__name__
        if node.name() == "torch::autograd::Error":
            return custom_function(roots) or "an operation of the model"
    return None
