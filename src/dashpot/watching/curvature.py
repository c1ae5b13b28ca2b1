"""Largest eigenvalues of the preconditioned Hessian, compared with the edge of stability."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot._torch_private import NormBase
from dashpot.curvature import Eigenvalues, eigenvalues
from dashpot.errors import DashpotError
from dashpot.watching.curvature_operator import Scales, scaled_hessian, scales_of
from dashpot.watching.probe import Moment, Probe, failure

if TYPE_CHECKING:
    from dashpot.watching.watcher import Watcher

_MINIBATCH = (
    "Measured on {} of a minibatch. On average, the largest eigenvalue of few examples is above that of all examples, "
    "and minibatch training equilibrates with the value of all examples below the edge."
)
_FEW = 32
"""Number of examples below which a batch is not divided."""
_BATCHNORM = "Layers that normalize over the batch use the statistics of these examples."


class CurvatureProbe(Probe):
    """Largest eigenvalues of rate times curvature, by a few Lanczos steps from the previous eigenvectors.

    Args:
        every: Number of steps between measurements; the budget may allow fewer.
        examples: Largest number of examples, if the batch can be sliced. With a limited budget, a batch of more than 32
            examples is also halved.
        tolerance: Relative residual at which the process stops.
        iterations: Largest number of products.
        full_batch: Whether every batch is the whole data set.
    """

    kind: ClassVar[str] = "curvature"
    communicates: ClassVar[bool] = True
    prior = 12.0  # 5 products of less than three steps each; the first measurement has no warm start

    def __init__(
        self,
        every: int = 100,
        *,
        examples: int = 128,
        tolerance: float = 0.05,
        iterations: int = 12,
        full_batch: bool = False,
    ) -> None:
        self.every, self.examples = every, examples
        self.tolerance, self.iterations, self.full_batch = tolerance, iterations, full_batch
        self._start: Tensor | None = None
        self._reason: str | None = None

    def is_due(self, step: int) -> bool:
        """Return whether the probe measures at this step: not at the first, at which second moments are unsettled."""
        return step % self.every == 0

    def before_step(self, watcher: Watcher, moment: Moment) -> None:
        """Measure at the weights and rates before the update."""
        try:
            row = self._measured(watcher, moment)
        except (DashpotError, RuntimeError) as error:  # also out of memory: the training continues
            row = _undefined(str(error) if isinstance(error, DashpotError) else failure(error))
        if row["reason"] is None or row["reason"] != self._reason:  # one row per reason
            watcher.record.add(self.kind, {"step": moment.step, **row})
        self._reason = row["reason"]

    def _measured(self, watcher: Watcher, moment: Moment) -> dict[str, Any]:
        closure, examples = self._closure(moment, limited=watcher.record.header["budget"] < 1)
        if closure is None:
            return _undefined("Curvature requires a closure: watcher.observe(closure=...) before the step.")
        scales = scales_of(watcher.optimizer)
        start = self._start if self._start is not None and self._start.shape[1] == _size(scales) else None
        with scaled_hessian(watcher.optimizer, closure, scales) as operator:
            found = eigenvalues(operator, tolerance=self.tolerance, iterations=self.iterations, start=start)
        self._start = found.vectors.float()
        sliced = moment.examples is not None and examples is not None and examples < moment.examples
        full = self.full_batch and moment.examples == moment.size and not sliced
        notes = [*scales.notes, *([] if full else [_MINIBATCH.format(_counted(examples))])]
        if sliced and _normalizes_over_batch(watcher.model):
            notes.append(_BATCHNORM)
        facts = {"examples": examples, "full_batch": full, "products": operator.products, "route": operator.route}
        return {**_numbers(found, scales), **facts, "notes": notes, "reason": None}

    def _closure(self, moment: Moment, *, limited: bool) -> tuple[Callable[[], Tensor] | None, int | None]:
        """Return the closure over the measured examples, and their number if known."""
        sliced, size = moment.sliced, moment.examples
        if sliced is None or size is None:
            return moment.closure, size
        last = min(size, self.examples, max(size // 2, _FEW) if limited else size)
        if last == size and moment.closure is not None:
            return moment.closure, size
        return (lambda: sliced(0, last)), last


def _numbers(found: Eigenvalues, scales: Scales) -> dict[str, Any]:
    top = found.values[0] * scales.edge
    return {
        "eigenvalues": [value * scales.edge for value in found.values],
        "residuals": [value * scales.edge for value in found.residuals],
        "lowest": found.lowest * scales.edge,
        "edge": scales.edge,
        "ratio": found.values[0],
        "sharpness": top / scales.rate - scales.shifts[0] if scales.rate and len(set(scales.shifts)) == 1 else None,
        "iterations": found.iterations,
        "converged": found.converged,
    }


def _undefined(reason: str) -> dict[str, Any]:
    return {"eigenvalues": None, "edge": None, "ratio": None, "sharpness": None, "reason": reason}


def _size(scales: Scales) -> int:
    return sum(p.numel() for p in scales.params)


def _counted(examples: int | None) -> str:
    return "the examples" if examples is None else f"{examples} examples"


def _normalizes_over_batch(model: torch.nn.Module | None) -> bool:
    return model is not None and any(isinstance(part, NormBase) and part.training for part in model.modules())
