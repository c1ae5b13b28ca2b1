"""The eager engine on blocks of elements: small tensors are joined and large ones cut.

An operation of torch costs a microsecond or more whatever its size, and a large result is written to memory that the
next operation reads again. So tensors that step alike are run together, in blocks whose intermediate results stay in
the processor's cache. That is possible where a recipe looks at elements alone; every element goes through the same
operations as in a step of its tensor by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor

from dashpot._torch_private import foreach_copy_
from dashpot.engine.group_step import TensorStep
from dashpot.engine.native.kernel import structure
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.native.trace import Layout, trace
from dashpot.engine.program import DEFAULT_FORMAT, StepScalars, StorageFormat, compute_dtype, one_step
from dashpot.engine.stage_errors import is_custom_stage
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Clock

__all__ = ["SHARE", "block_size", "step_in_blocks"]

SHARE = 1 << 15
"""Elements of a block for each thread: torch gives a thread no fewer."""
_SMALL = 1 << 15
"""Tensors of fewer elements are joined."""
_PLAIN = (Tensor, torch.nn.Parameter)

_elementwise: dict[Hashable, bool] = {}


def block_size() -> int:
    """Elements of a block: a share for each thread, and two for a single one, whose time is spent on calls else."""
    return SHARE * max(2, torch.get_num_threads())


def step_in_blocks(recipe: Recipe, works: Sequence[TensorStep], scalars: Sequence[StepScalars]) -> list[TensorStep]:
    """Take the steps that can be taken in blocks; returns the others.

    `scalars[work.scalars_index]` are the scalars of a tensor.
    """
    if torch.is_grad_enabled() or not works or not _is_elementwise(recipe):
        return list(works)
    left: list[TensorStep] = []
    lines: dict[tuple[StorageFormat, int], list[_Lines]] = {}
    keys = {storage: [slot.key for slot in storage.slots(recipe)] for storage in {work.storage for work in works}}
    for work in works:
        found = _lines(work, keys[work.storage])
        if found is None:
            left.append(work)
        else:
            lines.setdefault((work.storage, work.scalars_index), []).append(found)
    if lines and _share_memory(chain.from_iterable(chain.from_iterable(lines.values()))):
        return list(works)
    for (storage, row), alike in lines.items():
        _Blocks(recipe, storage, keys[storage], scalars[row]).step(alike)
    return left


# ---- which tensors ---------------------------------------------------------------------------------------------------


def _is_elementwise(recipe: Recipe) -> bool:
    """True for stages of dashpot, idle or not, of which none asks for a mean or a norm or keeps a number for a whole
    tensor. A user's stage may do anything, and its errors name the parameter."""
    if any(is_custom_stage(type(stage)) for stage in recipe.stages):
        return False
    key = structure(recipe)
    if key not in _elementwise:
        _elementwise[key] = _traces_to_elements(recipe)
    return _elementwise[key]


def _traces_to_elements(recipe: Recipe) -> bool:
    if any(slot.shape == "per_tensor" for slot in recipe.slots):
        return False
    single = torch.float32
    layout = Layout(single, single, single, tuple((slot.key, single) for slot in recipe.slots))
    stages = [BoundStage.of(stage) for stage in recipe.stages]
    try:
        found = trace(stages, recipe.slots, DEFAULT_FORMAT, layout, Clock(t=1, lr=0.0))
    except UntraceableError:
        return False
    return all(x.level == 0 for x in found.arrays.values())


_Lines = list[Tensor]
"""Weight, gradient and slots of one tensor, each as a line of elements."""


def _lines(work: TensorStep, keys: Sequence[str]) -> _Lines | None:
    """The lines of a tensor; None where it has to be stepped by itself."""
    if work.storage.is_stochastic or work.p.numel() == 0:
        return None
    arrays = [work.p, work.grad, *map(work.state.__getitem__, keys)]
    return [x if x.dim() == 1 else x.view(-1) for x in arrays] if all(map(_is_line, arrays)) else None


def _is_line(x: Tensor) -> bool:
    return type(x) in _PLAIN and x.is_cpu and x.is_contiguous() and not (x.is_complex() or x.is_neg())


def _share_memory(arrays: Iterator[Tensor]) -> bool:
    """True where one array lies in another: then the order of the steps matters."""
    spans = sorted((start := x.data_ptr(), start + x.nbytes) for x in arrays)
    return any(first[1] > second[0] for first, second in pairwise(spans))


# ---- stepping --------------------------------------------------------------------------------------------------------


class _Blocks:
    """Steps tensors that are stored alike and have the same numbers."""

    def __init__(self, recipe: Recipe, storage: StorageFormat, keys: Sequence[str], scalars: StepScalars) -> None:
        self._recipe, self._storage, self._keys, self._numbers = recipe, storage, keys, scalars

    def step(self, tensors: Sequence[_Lines]) -> None:
        """Take the step of each."""
        small: dict[Hashable, list[_Lines]] = {}
        size = block_size()
        for lines in tensors:
            if lines[0].numel() < _SMALL:
                small.setdefault(tuple(x.dtype for x in lines), []).append(lines)
            else:
                for pieces in zip(*(x.split(size) for x in lines), strict=True):
                    self._step_alone(pieces)
        for alike in small.values():
            for block in _filled(alike, size):
                self._step_joined(block) if len(block) > 1 else self._step_alone(block[0])

    def _step_alone(self, lines: Sequence[Tensor]) -> None:
        w, g, *slots = lines
        for place, value in zip((*slots, w), self._stepped(w, g, slots), strict=True):
            place.copy_(value)

    def _step_joined(self, block: Sequence[_Lines]) -> None:
        w, g, *slots = list(zip(*block, strict=True))
        sizes = [x.numel() for x in w]
        new = self._stepped(torch.cat(w), torch.cat(g), list(map(torch.cat, slots)))
        places = chain.from_iterable((*slots, w))
        values = chain.from_iterable(value.split(sizes) for value in new)
        foreach_copy_(list(places), list(values))

    def _stepped(self, w: Tensor, g: Tensor, slots: Sequence[Tensor]) -> list[Tensor]:
        """The new slots and the new weight."""
        state = dict(zip(self._keys, slots, strict=True))
        new, kept = one_step(
            self._recipe.bound_stages, self._storage, compute_dtype(w.dtype), self._numbers, w, g, state
        )
        return [*({**state, **kept}[key] for key in self._keys), new]


def _filled(tensors: Sequence[_Lines], limit: int) -> Iterator[list[_Lines]]:
    """Small tensors in turn, as many together as fill a block of `limit` elements."""
    block: list[_Lines] = []
    count = 0
    for lines in tensors:
        size = lines[0].numel()
        if count + size > limit:
            yield block
            block, count = [], 0
        block.append(lines)
        count += size
    yield block
