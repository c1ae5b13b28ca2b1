"""Recorder of values in every optimizer step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from dashpot.constraints import OneOf, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.figures import new_figure
from dashpot.figures.literal import literal
from dashpot.schedules import hyperparams
from dashpot.tasks.running_means import SYNC_INTERVAL
from dashpot.training.callback import Callback
from dashpot.training.callbacks.grad_norms import grad_norm, total_norm
from dashpot.training.logged_values import number_or_tensor, to_floats
from dashpot.training.optimizer_dict import OptimizerDict
from dashpot.utils.schema import MapOf, Rule, TensorOf

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch.optim import Optimizer

    from dashpot.training.learner import Learner

GROUP_SUFFIX = re.compile(r"(?P<name>.+):(?P<index>\d+)")


class Recorder(Callback):
    """Record one number per optimizer step for each of `names`; skipped steps are omitted.

    The recorded value of a hyperparameter is the one used by the step, including the effect of the optimizer's own
    schedule. Values on the device are buffered to avoid host syncs.

    Args:
        names: Values to record:

            * a hyperparameter of the first parameter group: "lr", "momentum" (or the first of `betas`), "betas[1]",
              "weight_decay", ...; "lr:1" is the learning rate of the group with index 1;
            * "grad_norm": the 2-norm of all unscaled gradients before clipping;
            * "state:exp_avg": the 2-norm of the optimizer state `exp_avg` over all parameters, after the step.
        loss: Whether to record the loss of the step as "loss", the mean over all examples of the step. With several
            optimizers, it is the sum of their losses, unless `ForOptimizer` binds the recorder to one.
        functions: Functions of the learner by the name of the recorded value, such as
            `rate=lambda learner: ...`. A function is called on every rank, immediately
            before the step, and returns a number or a 0-d tensor, which is read later to avoid a host sync. Checkpoints
            contain the values of rank 0.

    Raises:
        ArgumentError: If a name is not a string or is repeated, or a function is not callable; at the start of a fit,
            if a parameter group or a hyperparameter does not exist; at the first step, if an optimizer state does not
            exist; at a step, if a function does not return a number or a 0-d tensor.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.schedules import Cosine
        >>> from dashpot.training import Engine, Learner
        >>> def make(params, lr):
        ...     return AdamW(params, lr=lr, schedule=Cosine(24))
        >>> recorder = Recorder("lr", "betas[1]", "grad_norm", "state:exp_avg")
        >>> learner = Learner.of(tasks.get("digits").build(0), make, lr=0.01, engine=Engine("cpu"))
        >>> learner.fit(1, callbacks=[recorder])
        >>> sorted(recorder.values), len(recorder.values["loss"]), recorder.values["lr"][:1]
        (['betas[1]', 'grad_norm', 'loss', 'lr', 'state:exp_avg'], 24, [0.01])
        >>> recorder = Recorder(loss=False, bias=lambda learner: learner.model[-1].bias.norm())
        >>> learner.fit(1, callbacks=[recorder])
        >>> len(recorder.values["bias"])
        24
    """

    order: ClassVar[int] = 40
    essential: ClassVar[bool] = False
    state_schema: ClassVar[Rule] = MapOf(TensorOf(torch.float64, 1))

    def __init__(self, *names: str, loss: bool = True, **functions: Callable[[Learner], Any]) -> None:
        if callable(loss):
            raise ArgumentError("Recorder: loss must be one of False, True; choose another name for a function.")
        check("Recorder", "loss", loss, OneOf((False, True)))
        for name in names:
            if not isinstance(name, str) or not name:
                raise ArgumentError(f"Recorder: names must be strings such as 'lr', got {shown(name)}.")
        for name, function in functions.items():
            if not callable(function):
                raise ArgumentError(f"Recorder: {name} must be a function of the learner, got {shown(function)}.")
        every = [*(["loss"] if loss else []), *names, *functions]
        for name in every:
            if every.count(name) > 1:
                raise ArgumentError(f"Recorder: names must be distinct, got {name!r} twice.")
        self.names, self.loss, self.functions = tuple(names), loss, functions
        self._values: dict[str, list[float]] = {name: [] for name in every}
        self._pending: list[dict[str, Any]] = []

    @property
    def values(self) -> dict[str, list[float]]:
        """Recorded numbers, one per step, by name. During a fit with several ranks, buffered steps are missing."""
        if self._pending and self._engine.world_size == 1:
            self._flush()
        return {name: list(numbers) for name, numbers in self._values.items()}

    # ---- events -----------------------------------------------------------------------------------------------------

    def before_fit(self, learner: Learner) -> None:
        self._engine = learner.engine
        self._pending = []
        self._sums_turns = isinstance(learner.opt, OptimizerDict)  # several optimizers, and none is bound
        if self._sums_turns and self.names:
            _ = learner.opt.param_groups  # raises an error with a hint
        self._values = {name: [] for name in self._values}
        self._hyperparameters = {
            name: _reader(learner.opt, name)
            for name in self.names
            if name != "grad_norm" and not name.startswith("state:")
        }

    def after_backward(self, learner: Learner) -> None:
        if learner.batch.is_last_microbatch:
            self._measure_grad_norm(learner)

    def cleanup_batch(self, learner: Learner) -> None:
        # If the last micro-batch was cancelled, the step may use the gradients of the other micro-batches. After an
        # error, there is no step, and several optimizers do not accumulate.
        loop = learner.loop
        cancelled = learner.training and loop.unwinding is None and learner.batch.is_last_microbatch
        if cancelled and loop.pending_batches and not loop.optimizers:
            self._measure_grad_norm(learner)

    def _measure_grad_norm(self, learner: Learner) -> None:
        """Compute the gradient norm before clipping."""
        if "grad_norm" in self.names:
            grad_norm(learner)

    def _read_functions(self, learner: Learner) -> dict[str, Any]:
        """Return the values of the functions."""
        return {
            name: number_or_tensor(f"Recorder: the value of function {name}", function(learner))
            for name, function in self.functions.items()
        }

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if self._sums_turns:
            self._run_turn(learner, proceed)
            return
        row: dict[str, Any] = {name: read() for name, read in self._hyperparameters.items()}
        if "grad_norm" in self.names:
            row["grad_norm"] = grad_norm(learner)
        row |= self._read_functions(learner)
        proceed()
        if not learner.batch.stepped:
            return
        for name in self.names:
            if name.startswith("state:"):
                row[name] = _state_norm(learner.opt, name)
        if self.loss:
            row["loss"] = learner.loop.step_loss.mean
        self._append(row)

    def _run_turn(self, learner: Learner, proceed: Callable[[], None]) -> None:
        """Run the step of one of several optimizers; `after_step`, which follows the last one, adds the values."""
        if learner.loop.part == next(iter(learner.loop.optimizers)):
            self._row = {**self._read_functions(learner), **({"loss": 0.0} if self.loss else {})}
        proceed()
        if self.loss:
            self._row["loss"] = self._row["loss"] + learner.loop.step_loss.mean

    def after_step(self, learner: Learner) -> None:
        if self._sums_turns:
            self._append(self._row)

    def _append(self, row: dict[str, Any]) -> None:
        self._pending.append(row)
        if len(self._pending) >= SYNC_INTERVAL:
            self._flush()

    def after_epoch(self, learner: Learner) -> None:
        self._flush()

    def cleanup_fit(self, learner: Learner) -> None:
        # A flush reduces losses over all ranks, and a failed rank must not wait in a collective.
        if self._pending and (self._engine.world_size == 1 or learner.loop.unwinding is None):
            self._flush()

    def _flush(self) -> None:
        """Read the buffered values, with one device transfer per name."""
        rows, self._pending = self._pending, []
        for name in self._values if rows else ():
            numbers = to_floats([row[name] for row in rows])
            if name == "loss" and self._engine.world_size > 1:
                numbers = self._engine.all_reduce_sum(numbers)
            self._values[name] += numbers

    # ---- state and plot ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        self._flush()
        return {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in self._values.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != set(self._values):
            raise RunError(
                f"Recorder: names must be those of the checkpoint, {', '.join(state)}, got {', '.join(self._values)}."
            )
        self._pending = []
        self._values = {name: state[name].tolist() for name in self._values}

    def plot(self, *names: str, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Return a matplotlib figure with one panel per name, which shows the recorded values against the step.

        Args:
            names: Recorded names to plot. Default: all.
            ax: Axes to draw on, one per name. Default: a new figure.

        Raises:
            ArgumentError: If a name is not recorded, or matplotlib is not installed.

        Example:
            >>> [axes] = Recorder("lr").plot("lr").axes
            >>> axes.get_xlabel(), axes.get_ylabel()
            ('step', 'lr')
        """
        values = self.values
        shown = list(names or values)
        for name in shown:
            check("Recorder.plot", "a name", name, OneOf(tuple(values)))
        if not shown:
            raise ArgumentError("Recorder.plot: the recorder has no names.")
        figure, panels = new_figure("Recorder.plot", len(shown), size=(6.4, 0.6 + 1.8 * len(shown)), sharex=True, ax=ax)
        for panel, name in zip(panels, shown, strict=True):
            panel.plot(range(1, len(values[name]) + 1), values[name])
            panel.set_ylabel(literal(name))
        panels[-1].set_xlabel("step")
        figure.align_ylabels(panels)
        return figure


class StepRecorder(Recorder):
    """Recorder whose recorded rows can be removed."""

    def pop_rows(self, *, flush: bool = True) -> list[dict[str, float]]:
        """Return and remove the recorded rows.

        Args:
            flush: Whether to read buffered values, which all ranks must do together. With a single rank, they are
                always read.
        """
        if flush or self._engine.world_size == 1:
            self._flush()
        columns, self._values = self._values, {name: [] for name in self._values}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# ---- reading ---------------------------------------------------------------------------------------------------------


def _reader(opt: Optimizer, name: str) -> Callable[[], Any]:
    """Return a function that reads a hyperparameter of the next step, as a number or a clone of a tensor.

    Raises:
        ArgumentError: If the group or the hyperparameter does not exist or is not a number.
    """
    found = GROUP_SUFFIX.fullmatch(name)
    plain, index = (found["name"], int(found["index"])) if found else (name, 0)
    if index >= len(opt.param_groups):
        raise ArgumentError(
            f"Recorder: {name!r} requires parameter group {index}; the optimizer has {len(opt.param_groups)}."
        )
    value = hyperparams.read(opt.param_groups[index], plain)
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        raise ArgumentError(f"Recorder: {name!r} must be a number in the parameter group, got {shown(value)}.")
    schedule = _optimizer_schedule(opt, plain, index)
    if schedule is not None and schedule == "lr":
        return lambda: opt.current_lr(index)  # pyright: ignore[reportAttributeAccessIssue]

    def read() -> Any:
        value = hyperparams.read(opt.param_groups[index], plain)
        if schedule is not None:
            return schedule.value(float(value), opt.steps_done())  # pyright: ignore[reportAttributeAccessIssue]
        return value.detach().clone() if isinstance(value, Tensor) else float(value)

    return read


def _optimizer_schedule(opt: Optimizer, name: str, index: int) -> Any:
    """Return the optimizer's own schedule of a hyperparameter or None; for the learning rate, return "lr"."""
    group = opt.param_groups[index]
    for scheduled, schedule in getattr(opt, "schedule", {}).items():
        if hyperparams.locate(group, scheduled) == hyperparams.locate(group, name):
            return "lr" if scheduled == "lr" else schedule
    return None


def _state_norm(opt: Optimizer, name: str) -> Tensor:
    key = name.removeprefix("state:")
    values = [state[key] for state in opt.state.values() if isinstance(state.get(key), Tensor)]
    if not values:
        known = sorted({k for state in opt.state.values() for k, v in state.items() if isinstance(v, Tensor)})
        raise ArgumentError(f"Recorder: the optimizer has no state {key!r}; known are {', '.join(known) or 'none'}.")
    return total_norm([value.to(torch.float32) if not value.is_floating_point() else value for value in values])
