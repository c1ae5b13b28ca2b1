"""One step of one tensor as a pure function, the program that every engine runs.

The eager engine calls this function on tensors, the native engine traces it, and Inductor compiles it. The maths are
therefore implemented only once, here and in the stages. Stored values are converted to the compute precision, the
gradient is scaled and clipped, the stages are applied, and the results are rounded to the storage format.
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

COMPENSATION = "compensation"
"""State key for the rounding error of a weight (`rounding="kahan"`)."""


class StorageFormat(NamedTuple):
    """The format in which a weight and its state are stored between steps.

    Attributes:
        weight: Rounding of the weight: "nearest", "stochastic" or "kahan".
        state: Rounding of the state: "nearest" or "stochastic".
        state_dtype: Dtype of the elementwise state; None means the compute precision.
    """

    weight: str = "nearest"
    state: str = "nearest"
    state_dtype: torch.dtype | None = None

    def slots(self, recipe: Recipe) -> tuple[Slot, ...]:
        """Return the slots of the recipe and the additional slots that rounding requires."""
        return (*recipe.slots, elementwise(COMPENSATION)) if self.weight == "kahan" else recipe.slots

    @property
    def is_stochastic(self) -> bool:
        """Whether rounding uses random numbers."""
        return "stochastic" in (self.weight, self.state)


DEFAULT_FORMAT = StorageFormat()
"""The default format: weights and state are rounded to nearest, and the state has the compute precision."""


class StepScalars(NamedTuple):
    """All scalars of a step. Every engine treats them as data, so that new values do not cause a recompilation.

    Attributes:
        clock: Step number and learning rate.
        stages: The scalars of each stage.
        scale: Factor on the gradient, which combines clip factor, loss scale and sign.
        clip_value: Bound on the elements of the gradient, or None.
        rng_key: RNG key of the step, for stochastic rounding.
    """

    clock: Clock
    stages: tuple[Any, ...]
    scale: Any = 1.0
    clip_value: Any = None
    rng_key: Any = 0


class WholeTensor:
    """Reductions over a tensor that is not sharded.

    The reductions accumulate in float64, as kernels do, because a float32 sum of large numbers or squares may overflow.
    """

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean of all elements as a 0-d tensor."""
        return x.mean(dtype=wide_dtype(x)).to(x.dtype)

    def norm(self, x: Tensor) -> Tensor:
        """Return the Frobenius norm as a 0-d tensor."""
        return torch.linalg.vector_norm(x, dtype=wide_dtype(x)).to(x.dtype)


WHOLE_TENSOR = WholeTensor()


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the real dtype in which the update of a parameter of `dtype` is computed.

    >>> compute_dtype(torch.bfloat16), compute_dtype(torch.complex128)
    (torch.float32, torch.float64)
    """
    real = dtype.to_real() if dtype.is_complex else dtype
    return torch.float32 if real.itemsize < 4 else real


def advance(
    stages: Sequence[BoundStage],
    scalars: StepScalars,
    w: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Apply the stages in order to tensors of the same precision; return the new weight and the new slots by key."""
    clock = scalars.clock
    x = Signal(w=w, g=g, d=1.0, v=g, rate=clock.lr, shrink=None)
    slots: dict[str, Tensor] = {}
    for (stage, keys, state_type, _), c in zip(stages, scalars.stages, strict=True):
        x, s = stage.apply(x, state_type(*(state[key] for key in keys)), c, context)
        slots.update(zip(keys, s, strict=True))
        _check_shape(type(stage).__name__, x.v, w)
    return updated(x, clock.factor), slots


def observe_product(
    stages: Sequence[BoundStage],
    scalars: StepScalars,
    observation: Observation,
    state: Mapping[str, Tensor],
    context: Context = WHOLE_TENSOR,
) -> dict[str, Tensor]:
    """Observe a Hessian-vector product in all stages that support it; return the new slots of these stages by key."""
    slots: dict[str, Tensor] = {}
    for (stage, keys, state_type, _), c in zip(stages, scalars.stages, strict=True):
        if stage.observes:
            s = state_type(*(state[key] for key in keys))
            slots.update(zip(keys, stage.observe(observation, s, c, context), strict=True))
    return slots


def _check_shape(owner: str, direction: Any, w: Tensor) -> None:
    if not issubclass(type(w), Tensor):  # a symbol, which has no shape
        if not getattr(direction, "vector", False):
            raise ArgumentError(f"{owner}: the direction must keep the weight's shape.")
    elif getattr(direction, "shape", None) != w.shape:
        got = tuple(direction.shape) if isinstance(direction, Tensor) else direction
        raise ArgumentError(f"{owner}: the direction must keep the shape {tuple(w.shape)}, got {got}.")


def one_step(
    stages: Sequence[BoundStage],
    storage: StorageFormat,
    dtype: torch.dtype,
    scalars: StepScalars,
    w: Tensor,
    g: Tensor,
    state: Mapping[str, Tensor],
    index: Tensor | None = None,
    context: Context = WHOLE_TENSOR,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the new weight and the new slots, in the dtypes of `w` and `state`.

    Args:
        stages: The stages.
        storage: The storage format.
        dtype: The compute precision.
        scalars: The scalars of the step.
        w: The weight.
        g: The gradient, with the shape of `w`.
        state: The slots by key.
        index: Position of each element in memory, int32, with the shape of `w`; required for stochastic rounding.
        context: Reductions over the whole tensor.
    """
    compensation = state.get(COMPENSATION) if storage.weight == "kahan" else None
    wide = {key: value.to(dtype) for key, value in state.items() if key != COMPENSATION}
    weight = w.to(dtype) if compensation is None else rounding.join(w, compensation)
    new, slots = advance(stages, scalars, weight, prepared_gradient(g.to(dtype), scalars), wide, context)
    draw = _Draw(scalars.rng_key, index)
    stored = {
        key: _rounded(value, state[key].dtype, storage.state, draw, number)
        for number, (key, value) in enumerate(slots.items())
    }
    given = {id(value) for value in state.values()}
    for key, value in stored.items():  # a slot returned under a different key must not alias the original slot
        if id(value) in given and value is not state[key]:
            stored[key] = value.clone()
    if compensation is not None:
        high, stored[COMPENSATION] = rounding.split(new)
        return high, stored
    return _rounded(new, w.dtype, storage.weight, draw, -1), stored


def one_observation(
    stages: Sequence[BoundStage],
    storage: StorageFormat,
    dtype: torch.dtype,
    scalars: StepScalars,
    observation: Observation,
    state: Mapping[str, Tensor],
    index: Tensor | None = None,
    context: Context = WHOLE_TENSOR,
) -> dict[str, Tensor]:
    """Return the slots that a Hessian-vector product updates, in the dtypes of `state`.

    The arguments have the same meaning as in `one_step`.
    """
    wide = {key: value.to(dtype) for key, value in state.items() if key != COMPENSATION}
    observation = observation._replace(v=observation.v.to(dtype), hv=observation.hv.to(dtype))
    slots = observe_product(stages, scalars, observation, wide, context)
    draw = _Draw(scalars.rng_key, index)
    return {
        key: _rounded(value, state[key].dtype, storage.state, draw, number)
        for number, (key, value) in enumerate(slots.items())
    }


def prepared_gradient(g: Tensor, scalars: StepScalars) -> Tensor:
    """Return the scaled and clipped gradient."""
    if type(scalars.scale) is not float or scalars.scale != 1.0:  # symbols cannot be compared
        g = g * scalars.scale
    if scalars.clip_value is None:
        return g
    limit = bound(scalars.clip_value, g)
    return g.clamp(-limit, limit)


class _Draw(NamedTuple):
    rng_key: Any
    index: Any


def _rounded(x: Tensor, dtype: torch.dtype, mode: str, draw: _Draw, number: int) -> Tensor:
    """Round `x` to a dtype. Two consecutive slot numbers share a hash."""
    if mode == "stochastic" and dtype == torch.bfloat16:
        pair, half = divmod(number, 2)
        return rounding.stochastic(x, rounding.noise(draw.index, rounding.stream(draw.rng_key, pair), half))
    return x.to(dtype)
