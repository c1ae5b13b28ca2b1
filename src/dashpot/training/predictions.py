"""Outputs of a model for several batches, concatenated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dashpot.errors import ArgumentError


def concatenate(parts: Sequence[tuple[int, Any]], world_size: int) -> Any:
    """Concatenate the outputs of batches.

    Tensors are concatenated along their first dimension; 0-d tensors are stacked. Tensors that differ in their other
    dimensions, and outputs that are neither tensors nor containers, become a list. Tuples and mappings are kept, and
    their items are concatenated. Lists with an item per example are concatenated; other lists are treated like tuples.

    Args:
        parts: Number of examples and outputs of each batch, in order.
        world_size: Number of processes that have computed the outputs.

    Raises:
        ArgumentError: If the batches have outputs of different structures, or 0-d outputs with several processes.

    >>> concatenate([(2, {"a": torch.zeros(2)}), (1, {"a": torch.ones(1)})], 1)
    {'a': tensor([0., 0., 1.])}
    """
    sizes, outputs = [size for size, _ in parts], [output for _, output in parts]
    return _concatenate(sizes, outputs, world_size)


def _concatenate(sizes: Sequence[int], outputs: Sequence[Any], world_size: int) -> Any:
    first = outputs[0]
    kinds = {_kind(output) for output in outputs}
    if len(kinds) > 1:
        names = " and ".join(sorted({type(output).__name__ for output in outputs}))
        raise ArgumentError(f"predict: the model must return the same structure for every batch, got {names}.")
    if isinstance(first, Tensor):
        return _join_tensors(sizes, outputs, world_size)
    if isinstance(first, Mapping):
        return {key: _concatenate(sizes, [output[key] for output in outputs], world_size) for key in first}
    if isinstance(first, list) and all(len(output) == size for size, output in zip(sizes, outputs, strict=True)):
        return [item for output in outputs for item in output]
    if isinstance(first, (tuple, list)):
        items = [_concatenate(sizes, column, world_size) for column in _columns(outputs)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return None if first is None else list(outputs)


def _kind(output: Any) -> Any:
    """Return the container type of an output, with the keys of a mapping."""
    if isinstance(output, Mapping):
        return frozenset(output)
    return next((kind for kind in (Tensor, list, tuple) if isinstance(output, kind)), output is None)


def _columns(outputs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    lengths = sorted({len(output) for output in outputs})
    if len(lengths) > 1:
        raise ArgumentError(
            "predict: a list in the outputs must have an item per example or the same length for every batch, got "
            f"lengths {', '.join(map(str, lengths))}."
        )
    return [list(column) for column in zip(*outputs, strict=True)]


def _join_tensors(sizes: Sequence[int], tensors: Sequence[Tensor], world_size: int) -> Any:
    if any(tensor.ndim == 0 for tensor in tensors):
        if world_size > 1:
            raise ArgumentError(
                "predict: with several processes, outputs must have a batch dimension, got a 0-d tensor."
            )
        return torch.stack(list(tensors))
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    if all(len(tensor) == size for size, tensor in zip(sizes, tensors, strict=True)):
        return [row for tensor in tensors for row in tensor]
    return list(tensors)
