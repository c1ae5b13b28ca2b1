"""Comparison of a kernel with the eager engine before its first use.

Tracing does not detect every branch in a stage. For example, `isinstance(x.d, Tensor)` is false for a symbol and true
for a tensor. Therefore the results of each kernel are compared with the results of the stages on random elements. This
comparison also detects compiler bugs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dashpot.engine.native.cpp import FIRST_SLOT, GRADIENT, STEP, WEIGHT, columns
from dashpot.engine.native.trace import Layout
from dashpot.engine.program import COMPENSATION, StepScalars, StorageFormat, one_step
from dashpot.engine.rounding import stream
from dashpot.recipes.recipe import Recipe

_ELEMENTS = 97
_MAX_MISMATCHES = 0.1  # fraction of elements that may differ, because rounding can change a comparison in a stage


class Sample:
    """Random weights, random gradients, and state with nonnegative random increments, with the dtypes of one layout."""

    def __init__(self, recipe: Recipe, storage: StorageFormat, layout: Layout) -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        self._storage, self._layout = storage, layout
        dtypes = dict(layout.slots)
        self.w = torch.randn(_ELEMENTS, generator=generator, device="cpu").to(layout.weight)
        self.g = torch.randn(_ELEMENTS, generator=generator, device="cpu").to(layout.gradient)
        self.count = torch.zeros((), device="cpu")
        self.state: dict[str, Tensor] = {}
        for slot in storage.slots(recipe):
            size = () if slot.shape == "per_tensor" else (_ELEMENTS,)
            increment = 0.0 if slot.key == COMPENSATION else torch.rand(size, generator=generator, device="cpu")
            self.state[slot.key] = (slot.initial + increment * torch.ones(size, device="cpu")).to(dtypes[slot.key])

    def row(self) -> np.ndarray:
        """Return a kernel table with one row for these tensors, which the kernel updates in place."""
        row = np.zeros((1, columns(list(self.state))), dtype=np.int64)
        row[0, 0] = _ELEMENTS
        row[0, WEIGHT], row[0, GRADIENT], row[0, STEP] = (x.data_ptr() for x in (self.w, self.g, self.count))
        row[0, FIRST_SLOT:] = [value.data_ptr() for value in self.state.values()]
        return row

    def eager_step(self, recipe: Recipe, scalars: StepScalars) -> dict[str, Tensor]:
        """Return the result of an eager step, without updating the tensors."""
        if self._storage.is_stochastic:
            scalars = scalars._replace(
                rng_key=stream(torch.tensor(scalars.rng_key, dtype=torch.int32, device="cpu"), 0)
            )
        index = torch.arange(_ELEMENTS, dtype=torch.int32, device="cpu")
        compute = self._layout.compute
        w, slots = one_step(recipe.bound_stages, self._storage, compute, scalars, self.w, self.g, self.state, index)
        return {key: value.clone() for key, value in {"w": w, **slots}.items()}

    def matches(self, expected: dict[str, Tensor]) -> bool:
        """Return whether weight and state after the kernel's step match the eager result within tolerance."""
        found = {"w": self.w, **self.state}
        return all(_close(found[key], value) for key, value in expected.items())


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 0.02 if found.dtype.itemsize == 2 else 1e-3
    a, b = found.double(), expected.double()
    scale = float(b[b.isfinite()].abs().mean()) if b.isfinite().any() else 0.0
    mismatch = ~torch.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return float(mismatch.double().mean()) <= _MAX_MISMATCHES
