"""One step of one tensor as a pure function, from what is stored to what is stored: the text every engine runs.

The eager engine calls it on tensors, the native one traces it, Inductor compiles it: the maths stand here and in the
stages once. Stored numbers are widened to the compute precision, the gradient is scaled and clipped, the stages act,
and the results are rounded back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.engine import rounding
from dashpot.errors import ArgumentError
from dashpot.recipes.recipe import BoundStage, Recipe
from dashpot.stages.base import Clock, Context, Observation, Signal, Slot, elementwise
from dashpot.stages.update import updated
from dashpot.stages.wide import wide_dtype
from dashpot.utils.scalars import bound

__all__ = [
    "COMPENSATION",
    "DEFAULT_FORMAT",
    "StepScalars",
    "StorageFormat",
    "WholeTensor",
    "advance",
    "compute_dtype",
    "observe_product",
    "one_observation",
    "one_step",
]

COMPENSATION = "compensation"
"""State key of what rounding cut off a weight (`rounding="kahan"`)."""


class StorageFormat(NamedTuple):
    """How a tensor's numbers are kept between steps.

    `weight` and `state` tell how narrower numbers are rounded: "nearest", "stochastic" or, for the weight, "kahan".
    """

    weight: str = "nearest"
    state: str = "nearest"
    state_dtype: torch.dtype | None = None

    def slots(self, recipe: Recipe) -> tuple[Slot, ...]:
        """All state of one parameter, the rounding's included."""
        return (*recipe.slots, elementwise(COMPENSATION)) if self.weight == "kahan" else recipe.slots

    @property
    def is_stochastic(self) -> bool:
        """True when rounding uses random numbers."""
        return "stochastic" in (self.weight, self.state)


DEFAULT_FORMAT = StorageFormat()
"""Weights and state rounded to nearest, state in the compute precision."""


class StepScalars(NamedTuple):
    """Everything in a step that is no tensor; to every engine it is data.

    `scalars` are the stages' own, `scale` multiplies the gradient (clip factor, loss scale, sign), `limit` bounds its
    elements (None: no bound), `word` seeds the rounding of this tensor at this step.
    """

    clock: Clock
    stages: tuple[Any, ...]
    scale: Any = 1.0
    clip_value: Any = None
    rng_key: Any = 0


class WholeTensor:
    """Reductions over one whole tensor: the context of an engine that holds each parameter by itself.

    Summed in float64, as kernels do: the sum of large float32 numbers, or of their squares, may overflow.
    """

    def mean(self, x: Tensor) -> Tensor:
        """The mean over all elements, 0-d."""
        return x.mean(dtype=wide_dtype(x)).to(x.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """The Frobenius norm, 0-d."""
        return torch.linalg.vector_norm(x, dtype=wide_dtype(x)).to(x.dtype)


WHOLE_TENSOR = WholeTensor()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real dtype in which a parameter of `dtype` is updated.

    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
    (torch.float32, torch.float64)
    """
    real = dtype.to_real() if dtype.is_complex else dtype
    return torch.float32 if real.itemsize < 4 else real


def advance(
    lines: Sequence[BoundStage],
    scalars: StepScalars,
    w: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The stages in written order, in one precision: the new weight and the new slots by key."""
    clock = scalars.clock
    x = Signal(w=w, g=g, d=1.0, v=g, rate=clock.lr, shrink=None)
    slots: dict[str, Tensor] = {}
    for line, c in zip(lines, scalars.stages, strict=True):
        x, s = line.stage.apply(x, line.state_type(*(state[key] for key in line.keys)), c, context)
        slots.update(zip(line.keys, s, strict=True))
        _check_shape(type(line.stage).__name__, x.v, w)
    return updated(x, clock.factor), slots


def observe_product(
    lines: Sequence[BoundStage],
    scalars: StepScalars,
    seen: Observation,
    state: Mapping[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> dict[str, Tensor]:
    """What the observing stages make of a Hessian-vector product: their new slots by key."""
    slots: dict[str, Tensor] = {}
    for line, c in zip(lines, scalars.stages, strict=True):
        if line.stage.observes:
            s = line.state_type(*(state[key] for key in line.keys))
            slots.update(zip(line.keys, line.stage.observe(seen, s, c, context), strict=True))
    return slots


def _check_shape(owner: str, direction: Any, w: Tensor) -> None:
    if not issubclass(type(w), Tensor):  # a symbol, which stands for a tensor of any shape
        if not getattr(direction, "vector", False):
            raise ArgumentError(f"{owner}: the direction must keep the weight's shape.")
    elif getattr(direction, "shape", None) != w.shape:
        got = tuple(direction.shape) if isinstance(direction, Tensor) else direction
        raise ArgumentError(f"{owner}: the direction must keep the shape {tuple(w.shape)}, got {got}.")


def one_step(
    lines: Sequence[BoundStage],
    storage: StorageFormat,
    dtype: torch.dtype,
    scalars: StepScalars,
    w: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    index: Tensor | None = None,
    context: Context = WHOLE_TENSOR,
) -> tuple[Tensor, dict[str, Tensor]]:
    """New weight and slots, in the dtypes `w` and `state` came in.

    `dtype` is the compute precision. `index`, the position of each element in the tensor's memory (int32), is needed
    where rounding draws.
    """
    compensation = state.get(COMPENSATION) if storage.weight == "kahan" else None
    wide = {key: value.to(dtype) for key, value in state.items() if key != COMPENSATION}
    weight = w.to(dtype) if compensation is None else rounding.join(w, compensation)
    new, slots = advance(lines, scalars, weight, _prepared(g.to(dtype), scalars), wide, context)
    draw = _Draw(scalars.rng_key, index)
    stored = {
        key: _narrowed(value, state[key].dtype, storage.state, draw, number)
        for number, (key, value) in enumerate(slots.items())
    }
    given = {id(value) for value in state.values()}
    for key, value in stored.items():  # writing one slot must not change another that is to be stored in a third
        if id(value) in given and value is not state[key]:
            stored[key] = value.clone()
    if compensation is not None:
        high, stored[COMPENSATION] = rounding.split(new)
        return high, stored
    return _narrowed(new, w.dtype, storage.weight, draw, -1), stored


def one_observation(
    lines: Sequence[BoundStage],
    storage: StorageFormat,
    dtype: torch.dtype,
    scalars: StepScalars,
    seen: Observation,
    state: Mapping[str, Tensor],
    index: Tensor | None = None,
    context: Context = WHOLE_TENSOR,
) -> dict[str, Tensor]:
    """The slots that a Hessian-vector product changes, in the dtypes `state` came in; arguments as in `one_step`."""
    wide = {key: value.to(dtype) for key, value in state.items() if key != COMPENSATION}
    seen = seen._replace(v=seen.v.to(dtype), hv=seen.hv.to(dtype))
    slots = observe_product(lines, scalars, seen, wide, context)
    draw = _Draw(scalars.rng_key, index)
    return {
        key: _narrowed(value, state[key].dtype, storage.state, draw, number)
        for number, (key, value) in enumerate(slots.items())
    }


def _prepared(g: Tensor, scalars: StepScalars) -> Tensor:
    """The gradient as the stages see it: scaled, then bounded."""
    if type(scalars.scale) is not float or scalars.scale != 1.0:  # a symbol is never looked at
        g = g * scalars.scale
    if scalars.clip_value is None:
        return g
    limit = bound(scalars.clip_value, g)
    return g.clamp(-limit, limit)


class _Draw(NamedTuple):
    rng_key: Any
    index: Any


def _narrowed(x: Tensor, dtype: torch.dtype, how: str, draw: _Draw, number: int) -> Tensor:
    """`x` in a narrower dtype; two neighbouring numbers of slots share a hash."""
    if how == "stochastic" and dtype == torch.bfloat16:
        pair, half = divmod(number, 2)
        return rounding.stochastic(x, rounding.noise(draw.index, rounding.stream(draw.rng_key, pair), half))
    return x.to(dtype)
