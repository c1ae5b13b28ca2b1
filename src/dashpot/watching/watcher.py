"""The watcher of a run, which measures through the step hooks of an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from dashpot.constraints import Interval, check, shown
from dashpot.errors import ArgumentError
from dashpot.watching.budget import Budget
from dashpot.watching.curvature import CurvatureProbe
from dashpot.watching.dynamics import DynamicsProbe
from dashpot.watching.norms import NormsProbe
from dashpot.watching.probe import Moment, Probe
from dashpot.watching.rates import RateView
from dashpot.watching.report import WatchReport, report_of
from dashpot.watching.series import WatchRecord
from dashpot.watching.spectrum import SpectrumProbe

_BUDGET = Interval(0, 1, "right")


class Watcher:
    """Measurements of a run, created by `watch`; a context manager that removes the hooks.

    Attributes:
        optimizer: The watched optimizer.
        model: The model, or None.
        names: Names of the parameters by parameter.
        record: All measurements.
        budget: Control of the cost.
        probes: Measurements by kind.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module | None, budget: float) -> None:
        self.optimizer, self.model = optimizer, model
        self.names = _names(optimizer, model)
        self.budget = Budget(budget)
        self.probes: list[Probe] = [
            NormsProbe(every=10),
            DynamicsProbe(every=100),
            CurvatureProbe(every=100),
            SpectrumProbe(every=2000),
        ]
        self.record = WatchRecord(_header(self))
        self._moment = Moment(0)
        self._due: list[Probe] = []
        self._handles = [
            optimizer.register_step_pre_hook(lambda opt, args, kwargs: self._before_step()),
            optimizer.register_step_post_hook(lambda opt, args, kwargs: self._after_step()),
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. The record remains available."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def step(self) -> int:
        """Number of the last optimizer step; a resumed run continues the count by setting it."""
        return self._moment.step

    @step.setter
    def step(self, step: int) -> None:
        self._moment.step = step

    @property
    def grad_scale(self) -> float:
        """Factor of the gradients of the current step that the step itself divides by: that of a gradient scaler."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return 1.0 if scale is None else float(scale)

    def rates(self) -> RateView:
        """Return the elementwise rates of the current step. Call it in `Probe.before_step`."""
        return RateView(self.optimizer)

    def observe(
        self,
        loss: Tensor | None = None,
        *,
        closure: Callable[[], Tensor] | None = None,
        sliced: Callable[[int, int], Tensor] | None = None,
        size: int | None = None,
        examples: int | None = None,
    ) -> None:
        """Describe the batch of the next optimizer step; call it at any time before the step.

        Args:
            loss: Mean loss of the batch, a 0-d tensor.
            closure: Function that returns the mean loss of the batch at the current weights, with a graph. Required for
                curvature.
            sliced: Function of (first, last) that returns the mean loss over a range of the examples of the batch, with
                a graph. Used for the noise scale.
            size: Number of examples of the step, over all micro-batches and ranks.
            examples: Number of examples of `closure` and `sliced`. Default: `size`.
        """
        moment = self._moment
        moment.loss = None if loss is None else loss.detach()
        moment.closure, moment.sliced, moment.size = closure, sliced, size
        moment.examples = size if examples is None else examples

    def report(self) -> WatchReport:
        """Return what the run does, in at most five sentences, with a page and a figure.

        The sentences depend only on `record`, so the report is available during the run and after `close`.
        """
        return report_of(self.record)

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _before_step(self) -> None:
        self._moment.step += 1
        self.budget.begin()
        step = self._moment.step
        due = [probe for probe in self.probes if probe.is_due(step)]
        self._due = [probe for probe in due if probe.always or probe.pending or self.budget.affords(probe.kind)]
        for probe in self._due:
            with self.budget.charge(probe.kind):
                probe.before_step(self, self._moment)

    def _after_step(self) -> None:
        for probe in self._due:
            with self.budget.charge(probe.kind):
                probe.after_step(self, self._moment)
        self._due = []
        self._moment = Moment(self._moment.step)


def watch(optimizer: torch.optim.Optimizer, model: nn.Module | None = None, budget: float = 0.03) -> Watcher:
    """Measure what a run does, beside what theory predicts for its settings.

    Args:
        optimizer: Any torch optimizer: of dashpot, of torch or of another library.
        model: The model, for the names of tensors and layers.
        budget: Largest share of the run's time that measurements may take, in (0, 1].

    Returns:
        A `Watcher`.

    Raises:
        ArgumentError: If an argument has the wrong type or is out of range.

    Example:
        >>> import torch, dashpot as dp
        >>> w = torch.tensor([1.0, -2.0], requires_grad=True)
        >>> opt = dp.AdamW([w], lr=0.1)
        >>> with watch(opt, budget=1.0) as watcher:
        ...     for _ in range(3):
        ...         opt.zero_grad(); loss = (w**2).sum(); loss.backward(); watcher.observe(loss); opt.step()
        >>> watcher.record.rows("norms").last["step"]
        1
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(f"watch: optimizer must be a torch optimizer, got {shown(optimizer)}.")
    if model is not None and not isinstance(model, nn.Module):
        raise ArgumentError(f"watch: model must be a torch.nn.Module or None, got {shown(model)}.")
    check("watch", "budget", budget, _BUDGET)
    return Watcher(optimizer, model, budget)


def _names(optimizer: Any, model: nn.Module | None) -> dict[Tensor, str]:
    """Return names of all parameters: of the model, or of the groups, or indices."""
    known = {} if model is None else {p: name for name, p in model.named_parameters()}
    names: dict[Tensor, str] = {}
    for group in optimizer.param_groups:
        own = group.get("param_names") or [None] * len(group["params"])
        for p, name in zip(group["params"], own, strict=True):
            names[p] = known.get(p) or name or str(len(names))
    return names


def _header(watcher: Watcher) -> dict[str, Any]:
    return {
        "optimizer": type(watcher.optimizer).__name__,
        "tensors": {name: list(p.shape) for p, name in watcher.names.items()},
        "budget": watcher.budget.share,
    }
