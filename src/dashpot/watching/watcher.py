"""The watcher of a run, which measures through the step hooks of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from dashpot._torch_private import supports_step_hooks
from dashpot.constraints import Interval, Optional, check, shown
from dashpot.engine.dtensor import has_dtensor
from dashpot.errors import ArgumentError
from dashpot.optimizers.cuda_graph import capturing
from dashpot.utils.scalars import is_number
from dashpot.utils.warn import muted
from dashpot.watching.advice import Advice, advise
from dashpot.watching.alarms import AlarmsProbe
from dashpot.watching.budget import Budget
from dashpot.watching.cost import CostProbe, add_cost, cost
from dashpot.watching.curvature import CurvatureProbe
from dashpot.watching.dynamics import DynamicsProbe
from dashpot.watching.facts import header_of, tensor_names
from dashpot.watching.losses import Losses
from dashpot.watching.noise import NoiseProbe
from dashpot.watching.norms import NormsProbe
from dashpot.watching.planning import Plan
from dashpot.watching.probe import MeasurementError, Moment, Probe, failure
from dashpot.watching.pulse import PulseProbe
from dashpot.watching.ranks import Ranks
from dashpot.watching.rates import RateView
from dashpot.watching.report import WatchReport, report_of
from dashpot.watching.series import WatchRecord
from dashpot.watching.skipping import known_skip, step_was_skipped
from dashpot.watching.spectrum import SpectrumProbe
from dashpot.watching.temperature import TemperatureProbe
from dashpot.watching.tensor_norms import reduce_sums

_BUDGET = Interval(0, 1, "right")
_COUNT = _STEPS = Optional(Interval(1, closed="left", integer=True))
_MOST_FAILURES = 3
_CLOSURE = "The step was given a closure, inside which its gradients exist; call the closure before the step instead."


class Watcher:
    """Measurements of a run, created by `watch`; a context manager that removes the hooks.

    Attributes:
        optimizer: The watched optimizer.
        model: The model, or None.
        names: Names of the parameters by parameter.
        record: All measurements.
        budget: Control of the cost.
        ranks: The ranks of a distributed run.
        probes: Measurements, in the order in which they are made.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module | None, budget: float, steps: int | None = None
    ) -> None:
        self.optimizer, self.model = optimizer, model
        self.names: dict[Tensor, str] = {}
        self._ids: list[int] = []
        self.budget, self.ranks = Budget(budget, steps), Ranks()
        self.pulse, self._losses = PulseProbe(), Losses()
        self.probes: list[Probe] = [
            self.pulse,
            AlarmsProbe(),
            NormsProbe(every=10),
            DynamicsProbe(every=200),
            NoiseProbe(every=100),
            CurvatureProbe(every=100),
            SpectrumProbe(every=4000),
            TemperatureProbe(every=64),
            CostProbe(every=100),
        ]
        self.record = WatchRecord({})
        self._plan = Plan(self.budget, self.ranks)
        self._moment = Moment(0)
        self._due: list[Probe] = []
        self._costs: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        with muted():
            self._update_names()
        before: Any = torch.compiler.disable(self._before_step)
        after: Any = torch.compiler.disable(self._after_step)
        self._handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks. The record remains available."""
        if self._handles:
            add_cost(self, self.step)
            for probe in self.probes:
                probe.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def status(self) -> dict[str, Any]:
        """Return the measured cost: share of the time of the training steps, in all and by kind.

        Returns:
            A dict with `share`, `by_kind` {kind: share}, `steps`, `budget`, `measurements` {kind: count}, `waiting`
            (kinds that wait for credit) and `notes` (sentences about measurements that are made less often than
            intended).
        """
        counts, notes = dict(self.budget.counts), list(self.notes)
        return {**cost(self), "budget": self.budget.share, "measurements": counts, "notes": notes}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about measurements that are made less often than intended, or not at all."""
        reasons = () if self.ranks.reason is None else (self.ranks.reason,)
        return (*reasons, *self._plan.notes.values())

    @property
    def step(self) -> int:
        """Number of the last optimizer step; a resumed run continues the count by setting it."""
        return self._moment.step

    @step.setter
    def step(self, step: int) -> None:
        self._moment.step = self.budget.resumed_at = step

    @property
    def grad_scale(self) -> float:
        """Factor of the gradients of the current step that the step itself divides by: that of a gradient scaler."""
        scale = self._moment.scale
        return 1.0 if scale is None else float(scale)

    def gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters that have a gradient, and their gradients, possibly scaled or sparse."""
        grads = [p.grad for p in self.names]
        params = [p for p, grad in zip(self.names, grads, strict=True) if grad is not None]
        return params, [grad for grad in grads if grad is not None]

    def summed(self, params: Sequence[Tensor], sums: Tensor) -> Tensor:
        """Add sums over shards to sums over whole tensors; a collective operation if a parameter is a DTensor.

        Args:
            params: Parameters, equal on all ranks.
            sums: Sums over the elements of local shards, a float64 tensor of shape (quantities, parameters).
        """
        if not has_dtensor(params):
            return sums
        if self.ranks.world > 1 and not self.ranks.together:
            raise MeasurementError(f"The parameters are sharded. {self.ranks.reason}")
        return reduce_sums(params, sums)

    def rates(self) -> RateView:
        """Return the elementwise rates of the current step. Call it in `Probe.before_step`."""
        return RateView(self.optimizer)

    def observe(
        self,
        loss: Tensor | float | None = None,
        *,
        closure: Callable[[], Tensor] | None = None,
        sliced: Callable[[int, int], Tensor] | None = None,
        size: int | None = None,
        examples: int | None = None,
    ) -> None:
        """Describe the batch of the next optimizer step; call it at any time before the step.

        Args:
            loss: Mean loss of the batch, a tensor of one element or a number.
            closure: Function that returns the mean loss of the batch at the current weights, with a graph. Required for
                curvature.
            sliced: Function of (first, last) that returns the mean loss over a range of the examples of the batch, with
                a graph. Used for the noise scale.
            size: Number of examples of the step, over all micro-batches and ranks, >= 1.
            examples: Number of examples of `closure` and `sliced`, >= 1. Default: `size`.

        Raises:
            ArgumentError: If an argument has the wrong type or is out of range.
        """
        if loss is not None and not is_number(loss) and not (isinstance(loss, Tensor) and _is_one_number(loss)):
            got = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
            raise ArgumentError(f"Watcher.observe: loss must be a number or a real tensor of one element, got {got}.")
        for name, function in (("closure", closure), ("sliced", sliced)):
            if function is not None and not callable(function):
                raise ArgumentError(f"Watcher.observe: {name} must be a function or None, got {shown(function)}.")
        check("Watcher.observe", "size", size, _COUNT)
        check("Watcher.observe", "examples", examples, _COUNT)
        moment = self._moment
        moment.has_begun = False
        moment.loss = loss.detach().clone() if isinstance(loss, Tensor) else loss
        moment.closure, moment.sliced, moment.size = closure, sliced, size
        moment.examples = size if examples is None else examples

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Rows of the warnings so far: step, kind, tensor, text, advice, confidence and severity."""
        return list(self.record.rows("warning"))

    def report(self) -> WatchReport:
        """Return what the run does, in at most five sentences, with a page and a figure.

        The sentences depend only on `record`, so the report is available during the run and after `close`.
        """
        add_cost(self, self.step)
        return report_of(self.record)

    def advise(self, batch: int, *, old: int | None = None, momentum: str = "progress") -> Advice:
        """Return settings for a different batch size, from the measured noise scale.

        Args:
            batch: The new number of examples of a step; an integer >= 1.
            old: The present number of examples of a step. Default: that of the measured steps.
            momentum: "progress": the average of the momentum covers the same progress; "steps": the momentum is held,
                which is stable for larger rates.

        Raises:
            ArgumentError: If an argument is out of range, or `batch` is the present size.
        """
        return advise(self.record, self.optimizer, batch, old=old, momentum=momentum)

    # ---- hooks ------------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        if capturing():  # a replayed graph runs no hooks
            return
        step = self._moment.step + 1
        if self._moment.has_begun:  # the previous step has raised an exception
            self._moment = Moment(step)
        self._moment.step, self._moment.has_begun = step, True
        with self.budget.hook(new_step=True), muted():
            self._update_names()
            self.ranks.join()
            self._describe_step(optimizer, args, kwargs)
            self._due = [] if self._moment.skipped is True else self._plan.due(self.probes, self.step, self._device())
            if self.ranks.reason is not None or not self._moment.has_gradients:
                self._omit()
            self._run("before_step", self._moment)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if capturing():
            return
        moment = self._moment
        with self.budget.hook(new_step=False), muted():
            moment.skipped = moment.skipped or step_was_skipped(optimizer)
            if moment.skipped is True:
                self.record.drop(moment.step)
            else:
                self._losses.add(self.record, moment)
                self._run("after_step", moment)
            for probe in self._due:
                self._failures.pop(probe.kind, None)
            self._finish()
            moment.closure = moment.sliced = None  # rows keep the moment until they are read
            self._moment = Moment(moment.step)

    def _finish(self) -> None:
        """Count the measurements that are not pending."""
        pending = {probe.kind for probe in self.probes if probe.pending}
        for kind in self._costs.keys() - pending:
            self.budget.finish(kind, self._costs.pop(kind))
        self._due = []

    def _describe_step(self, optimizer: Any, args: Sequence[Any], kwargs: Any) -> None:
        moment = self._moment
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        moment.has_gradients = closure is None
        scale = getattr(optimizer, "grad_scale", None)
        moment.scale = scale.detach().clone() if isinstance(scale, Tensor) else scale
        moment.skipped = known_skip(optimizer)
        if moment.size is not None:
            self.record.header["batch"] = max(moment.size, self.record.header["batch"] or 0)

    def _omit(self) -> None:
        """Replace probes that cannot measure at this step by rows with a reason, once for each kind."""
        for probe in list(self._due):
            reason = self.ranks.reason if probe.communicates else None
            reason = _CLOSURE if probe.needs_gradients and not self._moment.has_gradients else reason
            if reason is not None:
                self._due.remove(probe)
                if not len(self.record.rows(probe.kind)):
                    self.record.add(probe.kind, {"step": self.step, "reason": reason})

    def _run(self, name: str, moment: Moment) -> None:
        for probe in list(self._due):
            with self._charged(probe.kind):
                try:
                    getattr(probe, name)(self, moment)
                except Exception as error:  # a measurement never ends a run
                    self._fail(probe, error)

    @contextmanager
    def _charged(self, kind: str) -> Iterator[None]:
        before = self.budget.spent.get(kind, 0.0)
        with self.budget.charge(kind):
            yield
        self._costs[kind] = self._costs.get(kind, 0.0) + self.budget.spent[kind] - before

    def _fail(self, probe: Probe, error: Exception) -> None:
        """Add a row with the reason, and remove a probe that has failed several times in a row."""
        self._due.remove(probe)
        text = failure(error)
        self.record.add(probe.kind, {"step": self.step, "reason": text})
        count = self._failures[probe.kind] = self._failures.get(probe.kind, 0) + 1
        if count == _MOST_FAILURES:
            self.probes.remove(probe)
            self._plan.notes[probe.kind] = f"{probe.kind} is no longer measured: {text}"

    def _update_names(self) -> None:
        """Update the names after parameters were added to the optimizer or initialized."""
        ids = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        header = self.record.header
        if ids != self._ids or None in header["tensors"].values():
            self._ids, self.names = ids, tensor_names(self.optimizer, self.model)
            header.update({**header_of(self), "batch": header.get("batch")})

    def _device(self) -> torch.device:
        return next((p.device for p in self.names), torch.device("cpu"))


def watch(
    optimizer: torch.optim.Optimizer, model: nn.Module | None = None, budget: float = 0.03, steps: int | None = None
) -> Watcher:
    """Measure a run, for comparison with the predictions of theory for its settings.

    In a distributed run, call this function on all ranks. Create the watcher after the model is wrapped.

    Args:
        optimizer: Any torch optimizer: of dashpot, torch or any other library, possibly wrapped as by accelerate.
        model: The model, for the names of tensors and layers.
        budget: Largest share of the time of the training steps that measurements may take, in (0, 1]; for runs of at
            least 200 steps. 1 means no limit.
        steps: Number of steps of the run, >= 1, with which expensive measurements can be made early. Default: unknown.

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
    optimizer = _with_hooks(optimizer)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ArgumentError(f"watch: optimizer must be a torch optimizer, got {shown(optimizer)}.")
    if model is not None and not isinstance(model, nn.Module):
        raise ArgumentError(f"watch: model must be a torch.nn.Module or None, got {shown(model)}.")
    check("watch", "budget", budget, _BUDGET)
    check("watch", "steps", steps, _STEPS)
    return Watcher(optimizer, model, budget, steps)


def _with_hooks(optimizer: Any) -> Any:
    """Return the optimizer within wrappers without step hooks of their own, such as those of accelerate."""
    while not supports_step_hooks(optimizer) and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _is_one_number(loss: Tensor) -> bool:
    return loss.numel() == 1 and not loss.is_complex() and loss.layout is torch.strided
