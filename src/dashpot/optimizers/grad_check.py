"""What comes before a step: the norm of all gradients, the factor that clips them, and whether to step at all.

The clip factor of gradients on a device stays on it, so that clipping makes nobody wait. A step that may be skipped
does wait for the answer.
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
from dashpot.engine.tensor_table import TensorTable
from dashpot.errors import NonFiniteError
from dashpot.optimizers.options import ResolvedOptions

__all__ = ["StepDecision", "check_gradients", "norm_dtype"]


class StepDecision(NamedTuple):
    """What was decided for a step.

    `scale` multiplies every gradient, `skip` leaves everything as it is, `norm` is that of the gradients before
    clipping (None where nobody asked). Off the CPU `scale`, `norm` and `clipped` are 0-d tensors.
    """

    scale: Any = 1.0
    skip: bool = False
    norm: Tensor | None = None
    clipped: Any = False

    def outcome(self) -> str:
        """The step in one word: "applied", "clipped" or "skipped"."""
        return "skipped" if self.skip else "clipped" if bool(self.clipped) else "applied"


def check_gradients(
    options: ResolvedOptions, engine: Backend, step: Step, tensor_table: TensorTable, scaler: tuple[Any, Any]
) -> StepDecision:
    """The verdict on this step's gradients.

    `scaler` is (loss scale, whether it found an infinity) as a `torch.amp.GradScaler` leaves them, or None each.
    """
    loss_scale, found_inf = scaler
    inverse = 1.0 if loss_scale is None else 1.0 / float(loss_scale)
    skip = found_inf is not None and bool(found_inf)
    if not step.parts or (options.max_norm is None and options.nonfinite == "allow"):
        return StepDecision(inverse, skip)
    norm, finite = _measured(engine, step, tensor_table)
    norm = norm * inverse
    if options.nonfinite == "raise" and not skip and not finite:
        raise NonFiniteError(_complaint(step))
    skip = skip or (options.nonfinite == "skip" and not bool(finite))
    if options.max_norm is None or skip:
        return StepDecision(inverse, skip, norm)
    factor = norm_factor(norm, options.max_norm)
    on_host = norm.device.type == "cpu" and not norm.requires_grad
    scale = float(factor) * inverse if on_host else factor * inverse
    return StepDecision(scale, skip, norm, factor < 1)


def _measured(engine: Backend, step: Step, tensor_table: TensorTable) -> tuple[Tensor, Any]:
    """(norm of all gradients together, whether all their elements are finite), the same in every process."""
    found = {
        spread: (squares, finite, rest)
        for spread, squares, finite, rest in engine.measure_gradients(step, tensor_table)
    }
    here = {spread: _combined(measure_gradients) for spread, measure_gradients in found.items()}
    return global_norm_and_finite(here) if here.keys() - {None} else here[None]


def _combined(measure_gradients: tuple[float, bool, list[Tensor]]) -> tuple[Tensor, Any]:
    """(norm, whether all is finite) from what `Engine.measured` gives."""
    squares, finite, rest = measure_gradients
    norms = [torch.tensor(math.sqrt(squares) if squares >= 0 else math.nan, dtype=torch.float64, device="cpu")]
    for device in dict.fromkeys(g.device for g in rest):
        here = [g if torch.is_grad_enabled() else g.detach() for g in rest if g.device == device]
        norms.append(total_norm([g.to(norm_dtype(g)) for g in here]))
        finite = _and(finite, torch.stack([torch.isfinite(g.detach()).all() for g in here]).all())
    place = max(norms, key=lambda norm: norm.device.type != "cpu")
    return total_norm([norm.to(place) for norm in norms]), finite


def norm_dtype(g: Tensor) -> torch.dtype:
    """The dtype to measure in: float64 on the CPU, as kernels do, so that squares of large numbers stay finite."""
    if g.device.type == "cpu":
        return torch.complex128 if g.is_complex() else torch.float64
    return g.dtype if g.is_complex() else compute_dtype(g.dtype)


def _and(a: Any, b: Tensor) -> Any:
    return bool(a) and bool(b) if b.device.type == "cpu" else b & a


def _complaint(step: Step) -> str:
    """Which gradients are not finite, by parameter name where there are names."""
    found = []
    for part in step.parts:
        for name, g in zip(part.names(), step.grads[part.start : part.stop], strict=True):
            nans, infinities = int(torch.isnan(g).sum()), int(torch.isinf(g).sum())
            if nans or infinities:
                counts = [f"{count} {word}" for count, word in ((nans, "nan"), (infinities, "infinite")) if count]
                found.append(f"{name} ({' and '.join(counts)} of {g.numel()})")
    if not found:
        return "The gradient is not finite in another process; nothing was changed."
    rest = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"The gradient is not finite: {', '.join(found[:5])}{rest}; nothing was changed."
