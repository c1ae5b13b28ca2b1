"""The eager engine on blocks of elements: small tensors are concatenated and large ones split.

A torch operation takes at least a microsecond, and large results are written to main memory. Therefore tensors with
equal scalars are stepped together, in blocks whose intermediate results fit in the CPU cache. The recipe must be
elementwise; every element then undergoes the same operations as if its tensor were stepped alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor

from dashpot._torch_private import foreach_copy_
from dashpot.engine.group_step import TensorStep
from dashpot.engine.native.kernel import structure
from dashpot.engine.native.trace import trace_float32
from dashpot.engine.program import StepScalars, StorageFormat, compute_dtype, one_step
from dashpot.engine.stage_errors import has_custom_stages
from dashpot.recipes.recipe import Recipe

ELEMENTS_PER_THREAD = 1 << 15
"""Number of elements of a block that each thread processes, equal to the grain size of torch."""
_SMALL = 1 << 15
"""Tensors with fewer elements than this number are concatenated."""
_PLAIN = (Tensor, torch.nn.Parameter)

_elementwise: dict[Hashable, bool] = {}


def block_size() -> int:
    """Return the number of elements per block: large enough for two threads and to amortize the overhead of calls."""
    return ELEMENTS_PER_THREAD * max(2, torch.get_num_threads())


def step_in_blocks(recipe: Recipe, steps: Sequence[TensorStep], scalars: Sequence[StepScalars]) -> list[TensorStep]:
    """Perform the steps that can be performed in blocks, and return the remaining steps.

    Args:
        recipe: Recipe of the parameter group.
        steps: Steps of the tensors in the group.
        scalars: Scalars, indexed by the `scalars_index` of each step.
    """
    if torch.is_grad_enabled() or not steps or not _is_elementwise(recipe):
        return list(steps)
    rest: list[TensorStep] = []
    batches: dict[tuple[StorageFormat, int], list[_Flat]] = {}
    keys = {storage: [slot.key for slot in storage.slots(recipe)] for storage in {step.storage for step in steps}}
    for step in steps:
        flat = _flatten(step, keys[step.storage])
        if flat is None:
            rest.append(step)
        else:
            batches.setdefault((step.storage, step.scalars_index), []).append(flat)
    if batches and _overlap(chain.from_iterable(chain.from_iterable(batches.values()))):
        return list(steps)
    for (storage, row), batch in batches.items():
        _Blocks(recipe, storage, keys[storage], scalars[row]).step(batch)
    return rest


# ---- selection ------------------------------------------------------------------------------------------------------


def _is_elementwise(recipe: Recipe) -> bool:
    """Check that no stage, active or not, is custom or uses means, norms or per-tensor slots.

    Custom stages are excluded because their error messages must name the parameter, so these stages run on one tensor
    at a time.
    """
    if has_custom_stages(recipe):
        return False
    key = structure(recipe)
    if key not in _elementwise:
        _elementwise[key] = _traces_elementwise(recipe)
    return _elementwise[key]


def _traces_elementwise(recipe: Recipe) -> bool:
    if any(slot.shape == "per_tensor" for slot in recipe.slots):
        return False
    found = trace_float32(recipe, active=False)
    return found is not None and all(x.level == 0 for x in found.arrays.values())


_Flat = list[Tensor]
"""Flat views of the weight, the gradient and the slots of one tensor."""


def _flatten(step: TensorStep, keys: Sequence[str]) -> _Flat | None:
    """Return flat views of the tensors of a step, or None if the step cannot be performed in blocks."""
    if step.storage.is_stochastic or step.p.numel() == 0:
        return None
    arrays = [step.p, step.grad, *map(step.state.__getitem__, keys)]
    return [x if x.dim() == 1 else x.view(-1) for x in arrays] if all(map(_can_flatten, arrays)) else None


def _can_flatten(x: Tensor) -> bool:
    return type(x) in _PLAIN and x.is_cpu and x.is_contiguous() and not (x.is_complex() or x.is_neg())


def _overlap(arrays: Iterator[Tensor]) -> bool:
    """Check whether any two arrays overlap in memory, which makes the order of the steps significant."""
    spans = sorted((start := x.data_ptr(), start + x.nbytes) for x in arrays)
    return any(first[1] > second[0] for first, second in pairwise(spans))


# ---- stepping -------------------------------------------------------------------------------------------------------


class _Blocks:
    """Blockwise steps of tensors that have the same storage format and scalars."""

    def __init__(self, recipe: Recipe, storage: StorageFormat, keys: Sequence[str], scalars: StepScalars) -> None:
        self._recipe, self._storage, self._keys, self._scalars = recipe, storage, keys, scalars

    def step(self, tensors: Sequence[_Flat]) -> None:
        """Step each tensor."""
        small: dict[Hashable, list[_Flat]] = {}
        size = block_size()
        for flat in tensors:
            if flat[0].numel() < _SMALL:
                small.setdefault(tuple(x.dtype for x in flat), []).append(flat)
            else:
                for block in zip(*(x.split(size) for x in flat), strict=True):
                    self._step_block(block)
        for group in small.values():
            for blocks in _pack_blocks(group, size):
                self._step_concatenated(blocks) if len(blocks) > 1 else self._step_block(blocks[0])

    def _step_block(self, block: Sequence[Tensor]) -> None:
        w, g, *slots = block
        for target, value in zip((*slots, w), self._compute(w, g, slots), strict=True):
            target.copy_(value)

    def _step_concatenated(self, blocks: Sequence[_Flat]) -> None:
        w, g, *slots = list(zip(*blocks, strict=True))
        sizes = [x.numel() for x in w]
        new = self._compute(torch.cat(w), torch.cat(g), list(map(torch.cat, slots)))
        targets = chain.from_iterable((*slots, w))
        values = chain.from_iterable(value.split(sizes) for value in new)
        foreach_copy_(list(targets), list(values))

    def _compute(self, w: Tensor, g: Tensor, slots: Sequence[Tensor]) -> list[Tensor]:
        """Return the new slots and the new weight of a block, computed from its weight, gradient and slots."""
        state = dict(zip(self._keys, slots, strict=True))
        new, kept = one_step(
            self._recipe.bound_stages, self._storage, compute_dtype(w.dtype), self._scalars, w, g, state
        )
        return [*({**state, **kept}[key] for key in self._keys), new]


def _pack_blocks(tensors: Sequence[_Flat], limit: int) -> Iterator[list[_Flat]]:
    """Yield lists of consecutive small tensors with at most `limit` elements per list."""
    block: list[_Flat] = []
    count = 0
    for flat in tensors:
        size = flat[0].numel()
        if count + size > limit:
            yield block
            block, count = [], 0
        block.append(flat)
        count += size
    yield block
