"""Options common to all optimizers: execution, clipping, precision, group flags and schedules."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import TypedDict

from dashpot.constraints import ARGUMENTS, FLAG, POSITIVE, Constraint, Interval, OneOf, Optional, check, shown, similar
from dashpot.engine.program import StorageFormat
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import nearest
from dashpot.schedules import Schedule
from dashpot.utils.scalars import read

Schedules: TypeAlias = "Schedule | Mapping[str, Schedule] | None"
"""Type of the option `schedule`."""


class StepOptions(TypedDict, total=False):
    """The options that `Optimizer.set_options` can change between steps."""

    max_norm: float | None
    clip_value: float | None
    adaptive_clip: float | None
    nonfinite: str


class BaseOptions(StepOptions, total=False):
    """All options except the flags that torch's classes accept as explicit arguments."""

    schedule: Schedules
    engine: str
    rounding: str
    state_dtype: torch.dtype | None
    seed: int


class Options(BaseOptions, total=False):
    """Keyword arguments common to all optimizers.

    Args:
        schedule: A `dashpot.Schedule` for lr, a mapping from setting names to schedules, or None. A schedule is a
            function of the optimizer's step count, so resuming requires no further state. torch's schedulers, which
            modify the parameter groups, are supported as well.
        maximize: Maximize the objective by negating the gradient, but not the decay. The value can differ between
            groups. Default: False.
        differentiable: Record the step in the autograd graph. Default: False.
        capturable: Count steps on the parameters' device and avoid host syncs, so that a CUDA graph can record a
            training step and replay it. The option cannot be combined with `nonfinite="raise"`. It is stored in the
            groups, and loading a checkpoint does not change it. Default: False.
        engine: "auto" (compiled kernels where they are faster, see `dashpot.explain_engine`), "eager" or "compiled".
            Default: the environment variable `DASHPOT_ENGINE` if set, otherwise "auto".
        max_norm: Maximum norm of the gradients of all groups taken together, > 0, or None. Larger gradients are scaled
            down inside the step; `p.grad` is unchanged. `optimizer.last_grad_norm` is the norm before clipping;
            `math.inf` measures this norm without clipping.
        clip_value: Bound on the magnitude of gradient elements, > 0, or None. Every element is clamped to [-clip_value,
            clip_value] after `max_norm` has been applied.
        adaptive_clip: Maximum ratio of a gradient's norm to its weight's norm, > 0, or None (`AdaptiveClip`).
        nonfinite: Treatment of gradients with nan or inf: "allow" (apply the step, as in torch), "skip" (leave weights,
            state and step counts unchanged, and set `optimizer.last_step` to "skipped") or "raise" (raise
            `NonFiniteError` without changing anything). Default: "allow".
        rounding: Rounding of bfloat16 weights: "nearest", "stochastic" (unbiased) or "kahan" (the rounding error is
            stored in a second bfloat16 number). It has no effect on wider dtypes. Default: "nearest".
        state_dtype: `torch.bfloat16` halves the memory for the elementwise state of float32 and bfloat16 weights, with
            stochastic rounding. None means that the state is stored in float32.
        seed: Seed for stochastic rounding, an integer in [0, 2^63). The random numbers depend only on the seed, the
            step and the element. Default: 0.
    """

    maximize: bool
    differentiable: bool
    capturable: bool


OPTION_NAMES: tuple[str, ...] = tuple(Options.__annotations__)

VARIABLE = "DASHPOT_ENGINE"

_ALLOWED: Mapping[str, Constraint] = {
    "engine": OneOf(("auto", "eager", "compiled")),
    "max_norm": Optional(Interval(0, math.inf, "right")),
    "clip_value": Optional(POSITIVE),
    "adaptive_clip": Optional(POSITIVE),
    "nonfinite": OneOf(("allow", "skip", "raise")),
    "rounding": OneOf(("nearest", "stochastic", "kahan")),
    "state_dtype": OneOf((None, torch.bfloat16)),
    "seed": ARGUMENTS["seed"],
    "capturable": FLAG,
}


def check_option_names(owner: str, options: Mapping[str, Any], arguments: Sequence[str] = ()) -> None:
    """Raise `TypeError` if a keyword is neither an option nor one of the constructor's `arguments`."""
    known = [*(name for name in arguments if name not in OPTION_NAMES), *OPTION_NAMES]
    for name in options:
        if name not in OPTION_NAMES:
            near = nearest(name, known) or similar(name, known)
            hint = f": did you mean {near!r}?" if near else "."
            own = ", ".join(known[: -len(OPTION_NAMES)])
            own = f" Arguments: {own}." if own else ""
            common = ", ".join(OPTION_NAMES)
            raise TypeError(f"{owner}: unknown argument {shown(name)}{hint}{own} Options of every optimizer: {common}.")


class ResolvedOptions(NamedTuple):
    """The validated options of an optimizer, with defaults filled in."""

    engine: str = "auto"
    max_norm: float | None = None
    clip_value: float | None = None
    adaptive_clip: float | None = None
    nonfinite: str = "allow"
    rounding: str = "nearest"
    state_dtype: torch.dtype | None = None
    seed: int = 0
    capturable: bool = False

    @staticmethod
    def of(owner: str, options: Mapping[str, Any]) -> ResolvedOptions:
        """Validate keyword arguments and fill in defaults.

        Raises:
            ArgumentError: If a value is out of range.
        """
        options = {"engine": os.environ.get(VARIABLE) or "auto", **options}
        for name, value in options.items():
            if isinstance(value, Tensor) and value.is_meta:
                raise ArgumentError(f"{owner}: {name} must have a value, got a tensor on the meta device.")
            check(owner, name, value, _ALLOWED[name])
        values: dict[str, Any] = {
            name: value.item() if isinstance(value, Tensor) else read(value) for name, value in options.items()
        }
        return ResolvedOptions(**values)

    def storage(self, dtype: torch.dtype) -> StorageFormat:
        """Return the storage format of a parameter of `dtype`. Dtypes as wide as the compute dtype are not rounded."""
        weight = self.rounding if dtype == torch.bfloat16 else "nearest"
        if self.state_dtype is None or dtype not in (torch.float32, torch.bfloat16):
            return StorageFormat(weight)
        return StorageFormat(weight, "stochastic", self.state_dtype)

    def text(self) -> str:
        """Return the options that differ from their defaults, formatted as keyword arguments."""
        defaults = self._field_defaults
        return ", ".join(f"{name}={value!r}" for name, value in self._asdict().items() if value != defaults[name])
