"""Looking through a graph of autograd: which leaves it reaches, and what in it cannot be differentiated again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointFunction

from dashpot._torch_private import autograd_function

__all__ = ["blind_function", "hides_parameters", "leaves", "user_function"]


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
    """The leaf tensors that a backward pass from `loss` would give a gradient."""
    found = (getattr(node, "variable", None) for node in _nodes([loss]))
    return {leaf for leaf in found if leaf is not None}


def user_function(roots: Iterable[Tensor]) -> str | None:
    """The name of a `torch.autograd.Function` that the tensors were computed with."""
    return next((kind.__name__ for node in _nodes(roots) if (kind := autograd_function(node))), None)


_ONCE = once_differentiable(lambda ctx: None).__code__


def hides_parameters(roots: Iterable[Tensor]) -> bool:
    """True where part of the graph is made anew in each backward pass, by reentrant checkpointing: a derivative by
    parameters in there comes out as None."""
    return any(autograd_function(node) is CheckpointFunction for node in _nodes(roots))


def blind_function(roots: Iterable[Tensor]) -> str | None:
    """The name of a function that is differentiable once only, if the tensors, or their gradients, come from one.

    torch itself would leave it out of a product without a word, as its gradients are not connected to anything.
    """
    for node in _nodes(roots):
        function = autograd_function(node)
        if function is not None and getattr(function.backward, "__code__", None) is _ONCE:
            return function.__name__
        if node.name() == "torch::autograd::Error":
            return user_function(roots) or "an operation of the model"
    return None
