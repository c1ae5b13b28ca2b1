"""Gradient checks before a step: global norm, clip factor, finiteness, and whether to skip the step.

The clip factor of gradients on an accelerator remains on the accelerator. Only steps that may be skipped cause a host
sync.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dashpot.clip import norm_factor, total_norm
from dashpot.engine.backend import Backend
from dashpot.engine.group_step import Step
from dashpot.engine.program import compute_dtype
from dashpot.engine.sharding import global_norm_and_finite
from dashpot.errors import NonFiniteError
from dashpot.optimizers.options import ResolvedOptions


class StepDecision(NamedTuple):
    """Whether and how to take a step. On accelerators, `scale`, `norm` and `clipped` are 0-d tensors.

    Attributes:
        scale: Factor on every gradient.
        skip: Whether to skip the step, which leaves parameters, state and step counts unchanged.
        norm: Norm of the gradients before clipping, or None if it was not measured.
        clipped: Whether `max_norm` reduces the gradients.
    """

    scale: Any = 1.0
    skip: bool = False
    norm: Tensor | None = None
    clipped: Any = False

    def outcome(self) -> str:
        """Return "applied", "clipped" or "skipped"."""
        return "skipped" if self.skip else "clipped" if bool(self.clipped) else "applied"


def check_gradients(options: ResolvedOptions, backend: Backend, step: Step, scaler: tuple[Any, Any]) -> StepDecision:
    """Measure the gradients as the options require, and decide whether and how to take the step.

    Args:
        options: The options of the optimizer.
        backend: The engine, which measures gradients with kernels.
        step: The step.
        scaler: The loss scale of a `torch.amp.GradScaler`, and whether the scaler found an infinity. Either may be
            None.

    Raises:
        NonFiniteError: If `nonfinite="raise"` and a gradient is not finite.
    """
    loss_scale, found_inf = scaler
    inverse = 1.0 if loss_scale is None else 1.0 / float(loss_scale)
    skip = found_inf is not None and bool(found_inf)
    if not step.groups or (options.max_norm is None and options.nonfinite == "allow"):
        return StepDecision(inverse, skip)
    norm, finite = _global_norm(backend, step)
    norm = norm * inverse
    if options.nonfinite == "raise" and not skip and not finite:
        raise NonFiniteError(_message(step))
    skip = skip or (options.nonfinite == "skip" and not bool(finite))
    if options.max_norm is None or skip:
        return StepDecision(inverse, skip, norm)
    factor = norm_factor(norm, options.max_norm)
    on_host = norm.device.type == "cpu" and not norm.requires_grad
    scale = float(factor) * inverse if on_host else factor * inverse
    return StepDecision(scale, skip, norm, factor < 1)


def _global_norm(backend: Backend, step: Step) -> tuple[Tensor, Any]:
    """Return the norm of all gradients and whether they are all finite; the results are equal on every rank."""
    found = {spec: _combined(*measured) for spec, measured in backend.measure_gradients(step)}
    return global_norm_and_finite(found) if found.keys() - {None} else found[None]


def _combined(squares: float, finite: Any, rest: list[Tensor]) -> tuple[Tensor, Any]:
    """Combine the measurements by kernels with measurements of the other gradients; return (norm, finite)."""
    norms = [torch.tensor(math.sqrt(squares) if squares >= 0 else math.nan, dtype=torch.float64, device="cpu")]
    for device in dict.fromkeys(g.device for g in rest):
        grads = [g if torch.is_grad_enabled() else g.detach() for g in rest if g.device == device]
        norms.append(total_norm([g.to(norm_dtype(g)) for g in grads]))
        finite = _and(finite, torch.stack([torch.isfinite(g.detach()).all() for g in grads]).all())
    target = max(norms, key=lambda norm: norm.device.type != "cpu")
    return total_norm([norm.to(target) for norm in norms]), finite


def norm_dtype(g: Tensor) -> torch.dtype:
    """Return the dtype in which to measure a gradient.

    On the CPU the result is float64, as in kernels, so that the squares of large float32 numbers are finite.
    """
    if g.device.type == "cpu":
        return torch.complex128 if g.is_complex() else torch.float64
    return g.dtype if g.is_complex() else compute_dtype(g.dtype)


def _and(a: Any, b: Tensor) -> Any:
    return bool(a) and bool(b) if b.device.type == "cpu" else b & a


def _message(step: Step) -> str:
    found = []
    for group in step.groups:
        for name, g in zip(group.names(), step.grads[group.start : group.stop], strict=True):
            nans, infinities = int(torch.isnan(g).sum()), int(torch.isinf(g).sum())
            if nans or infinities:
                counts = [f"{count} {kind}" for count, kind in ((nans, "nan"), (infinities, "infinite")) if count]
                found.append(f"{name} ({' and '.join(counts)} of {g.numel()})")
    if not found:
        return "The gradient is not finite on another rank; nothing was changed."
    rest = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"The gradient is not finite: {', '.join(found[:5])}{rest}; nothing was changed."
