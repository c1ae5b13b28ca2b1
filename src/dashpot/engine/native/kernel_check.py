"""A kernel is compared with the eager engine before its first use.

Symbols cannot notice everything a stage may do with them: one that asks `isinstance(x.d, Tensor)` goes another way with
a symbol than with a tensor. So a kernel has to show on a few random numbers that it computes what the stages do; that
covers the compiler too.
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

__all__ = ["Sample"]

_ELEMENTS = 97
_STRAY = 0.1  # share of elements that may differ: a comparison can turn where the engines differ by a rounding


class Sample:
    """Random weights, gradients and state of one layout, positive in all slots that have no sign of their own."""

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
            spread = 0.0 if slot.key == COMPENSATION else torch.rand(size, generator=generator, device="cpu")
            self.state[slot.key] = (slot.initial + spread * torch.ones(size, device="cpu")).to(dtypes[slot.key])

    def row(self) -> np.ndarray:
        """The table of a kernel with these tensors alone; the kernel then writes into them."""
        row = np.zeros((1, columns(list(self.state))), dtype=np.int64)
        row[0, 0] = _ELEMENTS
        row[0, WEIGHT], row[0, GRADIENT], row[0, STEP] = (x.data_ptr() for x in (self.w, self.g, self.count))
        row[0, FIRST_SLOT:] = [value.data_ptr() for value in self.state.values()]
        return row

    def stepped(self, recipe: Recipe, scalars: StepScalars) -> dict[str, Tensor]:
        """What the eager engine makes of them."""
        if self._storage.is_stochastic:
            scalars = scalars._replace(
                rng_key=stream(torch.tensor(scalars.rng_key, dtype=torch.int32, device="cpu"), 0)
            )
        index = torch.arange(_ELEMENTS, dtype=torch.int32, device="cpu")
        compute = self._layout.compute
        w, slots = one_step(recipe.bound_stages, self._storage, compute, scalars, self.w, self.g, self.state, index)
        return {key: value.clone() for key, value in {"w": w, **slots}.items()}

    def agrees(self, expected: dict[str, Tensor]) -> bool:
        """True where these tensors, after the kernel's step, are what was expected, but for roundings."""
        found = {"w": self.w, **self.state}
        return all(_close(found[key], value) for key, value in expected.items())


def _close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 0.02 if found.dtype.itemsize == 2 else 1e-3
    a, b = found.double(), expected.double()
    scale = float(b[b.isfinite()].abs().mean()) if b.isfinite().any() else 0.0
    stray = ~torch.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return float(stray.double().mean()) <= _STRAY
