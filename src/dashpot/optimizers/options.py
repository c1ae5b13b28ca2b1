"""How an optimizer runs, beside what it computes: engine, clipping, precision. Every optimizer takes these keywords."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict, Unpack

from dashpot.constraints import ARGUMENTS, FLAG, POSITIVE, Constraint, Interval, OneOf, Optional, check, shown, similar
from dashpot.engine.program import StorageFormat
from dashpot.errors import ArgumentError
from dashpot.optimizers.group_keys import nearest
from dashpot.utils.scalars import read

__all__ = ["FIXED_OPTIONS", "BaseOptions", "Options", "ResolvedOptions", "Unpack"]


class BaseOptions(TypedDict, total=False):
    """`Options` but for `capturable`, which some of torch's classes take by themselves."""

    engine: str
    max_norm: float | None
    clip_value: float | None
    adaptive_clip: float | None
    nonfinite: str
    rounding: str
    state_dtype: torch.dtype | None
    seed: int


class Options(BaseOptions, total=False):
    """Keywords that every optimizer takes and none of which is a setting of its method.

    Args:
        engine: "auto" (compiled kernels where they pay, see `dashpot.explain_engine`), "eager" or "compiled"; where it
            is not given, what the environment variable `DASHPOT_ENGINE` says, or "auto".
        max_norm: Positive, or None: the gradients of all groups together are scaled down to this norm inside the step;
            `p.grad` stays as it is. The norm before is `optimizer.last_grad_norm`; `math.inf` measures it and clips
            nothing.
        clip_value: Positive, or None: every element of a gradient is cut to [-clip_value, clip_value], after
            `max_norm`.
        adaptive_clip: Positive, or None: each gradient's norm is held to this multiple of its weight's norm
            (`AdaptiveClip`).
        nonfinite: What a step does with gradients that are not all finite: "allow" (torch's way: take it), "skip"
            (leave weights, state and counts as they are; `optimizer.last_step` says so) or "raise" (`NonFiniteError`,
            nothing changed).
        rounding: Of bfloat16 weights: "nearest", "stochastic" (right on average) or "kahan" (a second bfloat16 number
            keeps what rounding cut off). Without effect on wider weights.
        state_dtype: `torch.bfloat16` halves the elementwise state of float32 and bfloat16 weights, rounded
            stochastically; None keeps it in float32.
        seed: Integer in [0, 2^63) of the stochastic rounding, which depends on nothing but it, the step and the
            element.
        capturable: True: steps are counted on the parameters' device and nothing is read back, so that a CUDA graph can
            record a training step and replay it. Not with `nonfinite="raise"`. Kept in the groups; loading leaves it as
            it is.
    """

    capturable: bool


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


FIXED_OPTIONS = ("engine", "rounding", "state_dtype", "seed", "capturable")
"""Options fixed at construction: state, kernels and parameter groups depend on them."""


def _unknown(owner: str, name: str, arguments: Sequence[str]) -> str:
    """The sentence about a keyword that a constructor does not have."""
    near = nearest(name, [*arguments, *_ALLOWED]) or similar(name, [*arguments, *_ALLOWED])
    hint = f": did you mean {near!r}?" if near else "."
    own = f" Arguments: {', '.join(arguments)}." if arguments else ""
    return f"{owner}: unknown argument {shown(name)}{hint}{own} Options of every optimizer: {', '.join(_ALLOWED)}."


def _number(value: Any) -> Any:
    """An option given as a tensor, also one on a device, is read once."""
    return value.item() if isinstance(value, Tensor) else read(value)


class ResolvedOptions(NamedTuple):
    """`Options`, complete and checked."""

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
    def of(owner: str, options: Mapping[str, Any], arguments: Sequence[str] = ()) -> ResolvedOptions:
        """From keywords; `TypeError` for an unknown one, `ArgumentError` for a value out of range.

        `arguments` are those of the constructor beside the options.
        """
        options = {"engine": os.environ.get(VARIABLE) or "auto", **options}
        for name, value in options.items():
            if name not in _ALLOWED:
                raise TypeError(_unknown(owner, name, arguments))
            if isinstance(value, Tensor) and value.is_meta:
                raise ArgumentError(f"{owner}: {name} must have a value, got a tensor on the meta device.")
            check(owner, name, value, _ALLOWED[name])
        return ResolvedOptions(**{name: _number(value) for name, value in options.items()})

    def storage(self, dtype: torch.dtype) -> StorageFormat:
        """How a parameter of `dtype` is kept: only what is narrower than its compute precision can be rounded."""
        weight = self.rounding if dtype == torch.bfloat16 else "nearest"
        if self.state_dtype is None or dtype not in (torch.float32, torch.bfloat16):
            return StorageFormat(weight)
        return StorageFormat(weight, "stochastic", self.state_dtype)

    def text(self) -> str:
        """The keywords that differ from their defaults, as they were written."""
        changed = {
            name: value for name, value in self._asdict().items() if value != ResolvedOptions._field_defaults[name]
        }
        return ", ".join(f"{name}={value!r}" for name, value in changed.items())
