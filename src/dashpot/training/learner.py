"""The learner: a training loop with callbacks for a model, its data, a loss and an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.constraints import shown
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem, call_model
from dashpot.tasks.metric_checks import check_synced, checked_metrics
from dashpot.tasks.running_means import RunningMeans
from dashpot.training import error_hints, inference, logged_values
from dashpot.training.callback import Callback, CallbackList, CancelBatch, as_list
from dashpot.training.callbacks.time_limit import TimeLimit
from dashpot.training.distributed.engine import Engine
from dashpot.training.fit_loop import FitLoop
from dashpot.training.intervals import make_plan
from dashpot.training.loader import ResumableLoader
from dashpot.training.loop_state import Batch, LoopState
from dashpot.training.losses import scalar_loss
from dashpot.training.optimizer_dict import (
    OptimizerDict,
    check_losses,
    check_optimizer,
    make_optimizers,
    named_optimizers,
    turn,
)
from dashpot.training.plain_optimizer import OptimizerFactory, SupportsStep, adapt, make_optimizer
from dashpot.training.side_pass import release_output, restored_attributes
from dashpot.training.state import fit_settings, fit_state
from dashpot.training.state.fit_schema import check_state
from dashpot.training.step_loss import StepLoss, backpropagated, multiply_gradients
from dashpot.utils.group_params import group_params


class Learner:
    """Training loop with evaluation after every epoch.

    Events and actions of a fit, in order (see `dashpot.training.callback`):

        before_fit
          for each epoch, first in training, then in evaluation mode (without gradients):
            before_epoch
              for each batch:  before_batch, predict, after_predict, get_loss, after_loss,
                               [training:  backward, after_backward, step, after_step, zero_grad], after_batch,
                               cleanup_batch
            after_epoch, cleanup_epoch
        after_fit, cleanup_fit

    predict, get_loss, backward, step and zero_grad are actions; the others are events. `after_step` is called only if
    the optimizer has stepped. It is not called after a micro-batch that only accumulates its gradient or after a step
    that was skipped because of non-finite gradients. Cleanup events are always called, even after errors.

    Args:
        model: Model, called as `model(x)`. The entries of a dict or a tuple x become the arguments of the model if
            they match its signature (`dashpot.tasks.call_model`). The first fit moves the model to the device of
            `engine`.
        train: Training data: `dashpot.data.Batches` or another stream, or a `DataLoader` or another iterable of pairs
            (x, y).
        evaluation: Evaluation data, of the same types as `train`, or None for fits without evaluation.
        loss: Function from (output, y) to the mean loss of the batch, a 0-d tensor, or to a pair (sum, count) of 0-d
            tensors, for means over other counts than the number of examples, such as the number of tokens. For several
            optimizers, a mapping from their names to such functions; see "Several optimizers" in docs/training.md.
        optimizer: A torch optimizer over the model's parameters, shared by all fits, or a factory, called as
            `optimizer(params, lr=lr)` (without lr if none is given) at the start of every fit, with the list of the
            model's parameters. If its second argument is required and has a name other than lr, the factory is called
            as `optimizer(params, lr)`. An object of any other class with methods `step()` and `zero_grad()` is an
            optimizer too; its state is saved only if it has `state_dict` and `load_state_dict`.
            For several losses, a mapping from their names to optimizers or factories. The name of a factory is that of
            a child of the model, whose parameters are passed to the factory.
        lr: Learning rate for the factory; for several, a number or a mapping from names to numbers.
        metrics: Mapping from the name of a metric to a function of (output, y) that returns the *sum* of the metric
            over the batch, or a pair (sum, count); or to a metric object with the methods `update(output, y)`,
            `compute()` and `reset()`, such as those of torchmetrics, or `dashpot.tasks.WholeEpoch`. The value of an
            object after a phase is that of its `compute`. Collections such as `torchmetrics.MetricCollection` are
            replaced by their members.
        evaluation_loss: Loss function for evaluation, for example without label smoothing. Default: `loss`.
        size: Function from (x, y) to the number of examples of a batch. Default: the number that the data define, as
            `Batches` and a `DataLoader` do, or else the number on which the shapes in the batch agree.
        weight: Function from (output, y) to the count, a 0-d tensor, over which `loss` and `evaluation_loss` are
            means, such as the sum of the class weights. Default: the number of examples. A loss that returns a pair
            (sum, count) does not use it.
        callbacks: Callbacks used in every fit.
        engine: Device, precision and processes. Default: one process on the available accelerator.

    Attributes:
        model: The model.
        opt: Optimizer of the fit; None before the first fit if `optimizer` is a factory.
        engine: Device, precision and processes.
        train: Training data, a `ResumableLoader`.
        evaluation: Evaluation data, a `ResumableLoader` or None.
        metrics: Metric functions and objects by name.
        epochs: Number of epochs of the fit. In a fit with `steps` or `evaluate_every`, an epoch is an interval between
            two evaluations.
        epoch: Index of the current epoch, from 0.
        training: True in training phases, False in evaluation phases.
        batch: Current `Batch`, with the attributes `index`, `x`, `y`, `output` and `loss`.
        steps: Number of optimizer steps taken since the start of the run.
        total_steps: Number of optimizer steps in the whole fit, including skipped steps.
        history: Mean loss and metrics of each epoch, `{"train": {...}, "eval": {...}}`.
        stop_reason: Reason for ending the fit after this epoch, set by a callback, or None. To end the fit
            immediately, a callback must also raise `CancelFit`.
        loop: `LoopState` of the fit: position, gradient accumulation, phases.

    Raises:
        ArgumentError: If an argument has the wrong type, or a loader is empty.

    Example:
        >>> import dashpot as dp
        >>> from dashpot import tasks
        >>> problem = tasks.get("digits").build(seed=0)
        >>> learner = Learner.of(problem, dp.AdamW, lr=0.01, engine=Engine("cpu"))
        >>> learner.fit(2)
        >>> len(learner.history), learner.steps, learner.history[-1]["eval"]["accuracy"] > 0.7
        (2, 48, True)
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        evaluation: Any = None,
        *,
        loss: Callable[[Any, Any], Any] | Mapping[str, Callable[[Any, Any], Any]],
        optimizer: SupportsStep | OptimizerFactory | Mapping[str, Any],
        lr: float | Mapping[str, float] | None = None,
        metrics: Mapping[str, Any] | None = None,
        evaluation_loss: Callable[[Any, Any], Any] | Mapping[str, Callable[[Any, Any], Any]] | None = None,
        size: Callable[[Any, Any], int] | None = None,
        weight: Callable[[Any, Any], Tensor] | None = None,
        callbacks: Sequence[Callback] = (),
        engine: Engine | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"Learner: model must be a torch.nn.Module, got {shown(model)}.")
        if engine is not None and not isinstance(engine, Engine):
            raise ArgumentError(f"Learner: engine must be a dashpot.training.Engine or None, got {shown(engine)}.")
        optimizer = adapt(optimizer, model.parameters())
        check_losses(optimizer, loss, evaluation_loss, weight)
        for name, function, arguments in (("size", size, "x, y"), ("weight", weight, "output, y")):
            if function is not None and not callable(function):
                raise ArgumentError(
                    f"Learner: {name} must be a function of ({arguments}) or None, got {shown(function)}."
                )
        self.engine = Engine() if engine is None else engine
        self.model, self.metrics = model, checked_metrics({} if metrics is None else metrics, "Learner")
        check_synced(self.metrics, self.engine.world_size, "Learner")
        self.train = ResumableLoader(train, self.engine, "train", size)
        self.evaluation = None if evaluation is None else ResumableLoader(evaluation, self.engine, "evaluation", size)
        self.opt: Any = optimizer if isinstance(optimizer, Optimizer) else None
        self.history: list[dict[str, dict[str, float]]] = []
        self.steps = 0
        self.stop_reason: str | None = None
        self._loss, self._evaluation_loss = loss, loss if evaluation_loss is None else evaluation_loss
        self._weight = weight
        self._optimizer: Any = optimizer
        self._lr, self._callbacks = lr, as_list(callbacks)
        self._defaults, self._initial_groups = {}, []
        if self.opt is not None:
            self._remember_settings()
        self._module: nn.Module | None = None  # the model, wrapped by the engine
        self._step_batches: list[Batch] = []
        self._calls: list[tuple[str, int]] = []  # running methods that exclude each other, with their threads
        CallbackList(self._callbacks)

    @classmethod
    def of(
        cls, problem: Problem, optimizer: SupportsStep | OptimizerFactory | Mapping[str, Any], **options: Any
    ) -> Learner:
        """Return a learner for the problem of a task; `options` are arguments of `Learner`.

        The callbacks of the problem precede those in `options`.
        """
        losses = {"loss": problem.loss, "evaluation_loss": problem.evaluation_loss}
        if isinstance(problem.loss, Mapping) and not isinstance(optimizer, Mapping):
            optimizer = dict.fromkeys(problem.loss, optimizer)
        given = {**losses, "metrics": problem.metrics, "size": problem.size, "weight": problem.weight}
        options["callbacks"] = [*problem.callbacks, *as_list(options.get("callbacks", ()))]
        return cls(problem.model, problem.train, problem.evaluation, optimizer=optimizer, **given, **options)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    @inference.exclusive
    def fit(
        self,
        epochs: int | None = None,
        *,
        steps: int | None = None,
        max_time: float | None = None,
        evaluate_every: int | None = None,
        lr: float | Mapping[str, float] | None = None,
        callbacks: Sequence[Callback] = (),
        train: bool = True,
        evaluate: bool = True,
        resume: Mapping[str, Any] | None = None,
        override: bool = False,
    ) -> None:
        """Train and evaluate for a number of epochs or steps.

        With `steps` or `evaluate_every`, an epoch of events, history, schedules and logs is an interval of
        `evaluate_every` steps, after which the model is evaluated. The passes over the data continue from interval to
        interval.

        Args:
            epochs: Total number of passes over the training data, including the epochs already completed in `resume`.
            steps: Total number of optimizer steps, including those completed in `resume` and skipped steps, as an
                alternative to `epochs`. A step may use micro-batches of two passes.
            max_time: Limit of the wall-clock time in seconds, > 0, including the time spent before `resume`. The fit
                ends after the step that exceeds it, with an evaluation.
            evaluate_every: Number of optimizer steps between evaluations, an integer >= 1. Default: one pass over the
                training data; all `steps` if the data have no length.
            lr: Learning rate of this fit. Default: the learning rate `lr` of the learner.
            callbacks: Additional callbacks for this fit.
            train: Whether to run the training phases.
            evaluate: Whether to run the evaluation phases.
            resume: State to resume from, returned by `state_dict()` during an earlier fit.
            override: Whether to resume even if the optimizer, schedule, precision or other settings differ from the
                saved ones.

        Raises:
            ArgumentError: If an argument is out of range, or the loss is not a scalar.
            RunError: If `resume` does not match the model, optimizer or data, or if it does not match the settings and
                `override` is False; the message lists the differences. Also if a fit or an evaluation of this learner
                is running; the running fit is not affected.
        """
        if resume is not None:
            check_state(resume)
        plan = make_plan(self.train, epochs, steps, evaluate_every, resume=resume, train=train)
        limits = [] if max_time is None else [TimeLimit(max_time)]
        all_callbacks = CallbackList([*self._callbacks, *as_list(callbacks), *limits])
        self._prepare(self._lr if lr is None else lr)
        phases = {"train": train, "eval": evaluate and self.evaluation is not None}
        self.loop = LoopState(all_callbacks, RunningMeans(self.metrics), phases, override, plan)
        self.loop.optimizers = self.opt if isinstance(self.opt, OptimizerDict) else {}
        self.epoch, self.training = 0, True
        self.history, self.steps, self.stop_reason = [], 0, None
        self.loop.fit_loop = FitLoop(self)
        self.loop.fit_loop.run(resume)

    def _prepare(self, lr: Any) -> None:
        """Set up the model and the optimizers."""
        several = isinstance(self._optimizer, Mapping)
        given = [isinstance(item, Optimizer) for item in (self._optimizer.values() if several else [self._optimizer])]
        if lr is not None and all(given):
            raise ArgumentError("Learner: lr must be None if optimizer is an instance; set the lr of its groups.")
        if self.engine.sharded and (several or all(given)):
            raise ArgumentError(
                "Learner: optimizer must be one factory with strategy='fsdp', which replaces the parameters."
            )
        self._set_up_model()
        if several:
            self.opt = make_optimizers(self._optimizer, self.model, lr)
        elif not all(given):
            error_hints.check_parameters(self.model)
            self.opt = make_optimizer(self._optimizer, self.model.parameters(), lr)
        for opt in named_optimizers(self.opt).values():
            check_optimizer(opt)
        if not self._defaults or not all(given):
            self._remember_settings()
        self.engine.reset()
        self.opt.zero_grad()

    def _set_up_model(self) -> None:
        """Move the model to the device and wrap it, before the first pass."""
        if self._module is None:
            self._module = self.engine.setup(self.model)

    def _remember_settings(self) -> None:
        """Keep the settings of the optimizers that a resumed fit compares, before schedules change them."""
        self._defaults, self._initial_groups = fit_settings.defaults(self.opt), fit_settings.initial_groups(self.opt)

    @inference.exclusive
    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Return the means of the loss and the metrics over any data, before, during or after a fit.

        The means are those of an evaluation phase: with `evaluation_loss`, in the engine's precision, over the whole
        data and all ranks, and during a fit with averaged weights (`EMA`, `SWA`). A running fit is not affected: random
        states, loaders, the current batch, history, metrics and the modes of all modules are restored.

        For each batch, the actions `predict` and `get_loss` and the events of a batch are called, with `training`
        False, for the callbacks of the running fit (or the last one, or else those of the learner), except observers
        (`essential = False`). Events of epochs and fits are not called. With several processes, every rank must call
        this method.

        Args:
            data: Data of the same types as `evaluation`. Default: the evaluation data of the learner. A stream yields
                the batches of the current epoch, or else of the last one.

        Returns:
            A mapping from "loss" and the names of the metrics to means.

        Raises:
            ArgumentError: If `data` has an unsupported type, or is missing and the learner has no evaluation data.
            RunError: If called in a thread other than that of the running fit, during another evaluation, or, with
                averaged weights, between the forward and the backward pass of a batch.

        Example:
            >>> from dashpot import SGD, tasks
            >>> from dashpot.training import Engine
            >>> problem = tasks.get("digits").build(seed=0)
            >>> learner = Learner.of(problem, SGD, lr=0.1, engine=Engine("cpu"))
            >>> learner.fit(1)
            >>> learner.evaluate() == learner.history[-1]["eval"], sorted(learner.evaluate(problem.train))
            (True, ['accuracy', 'loss'])
        """
        return inference.evaluate(self, data)

    @inference.exclusive
    def predict(self, data: Any, *, labelled: bool | None = None) -> Any:
        """Return the outputs of the model for any data, in order and on the CPU, before, during or after a fit.

        The model is in evaluation mode, without gradients, in the engine's precision, and during a fit with averaged
        weights. A running fit is not affected, as for `evaluate`. For each batch, the action `predict` and the events
        `before_batch`, `after_predict` and `cleanup_batch` are called, with `batch.y` None; a callback that defines
        `predict` can therefore change the input of the model. With several processes, every rank must call this method,
        and every rank returns all outputs.

        Args:
            data: A stream, a `DataLoader`, a list of batches or another sized iterable of batches, with or without
                targets. A batch of one element, such as that of a `TensorDataset` of one tensor, is this element.
            labelled: Whether the batches are pairs (x, y). Targets are ignored. If None, tuples and lists of two
                elements are pairs; pass False if such a batch is the input of the model.

        Returns:
            The outputs of all batches, with the structure of the model's output. Tensors are concatenated along their
            first dimension (0-d tensors are stacked); if they differ in their other dimensions, a list with a tensor
            per example is returned instead. Tuples and mappings are kept. Lists with an item per example are
            concatenated.

        Raises:
            ArgumentError: If `data` has an unsupported type, the outputs of the batches have different structures, or,
                with several processes, an output is a 0-d tensor.
            RunError: As for `evaluate`, or if a callback cancels a batch.

        Example:
            >>> from dashpot import SGD, tasks
            >>> from dashpot.training import Engine
            >>> problem = tasks.get("digits").build(seed=0)
            >>> learner = Learner.of(problem, SGD, lr=0.1, engine=Engine("cpu"))
            >>> learner.predict(problem.evaluation).shape, learner.predict([problem.evaluation.x[:2]]).shape
            (torch.Size([300, 10]), torch.Size([2, 10]))
        """
        return inference.predict(self, data, labelled)

    # ---- actions ----------------------------------------------------------------------------------------------------

    def _predict_batch(self) -> None:
        """Perform the action `predict`: compute `batch.output` from `batch.x` (see `dashpot.tasks.call_model`)."""
        self.batch.output = call_model(self.model, self.batch.x, self.forward, self.loop.part)

    def get_loss(self) -> None:
        """Compute `batch.loss`, a mean over `batch.count`, from `batch.output` and `batch.y`."""
        with self.engine.autocast():
            function: Any = self._loss if self.training else self._evaluation_loss
            function = function if self.loop.part is None else function[self.loop.part]
            loss, counted = scalar_loss(function, self.batch.output, self.batch.y, self._weight)
        error_hints.check_device(loss, self.engine.device)
        if counted is not None and self.loop.part is not None:
            raise ArgumentError(
                f"Learner: with several optimizers, a loss must be a mean over examples, got (sum, count) for "
                f"{self.loop.part!r}."
            )
        if counted is not None and not self.batch.size:  # the example of an empty rank has weight 0
            counted = torch.zeros_like(counted)
        self.batch.loss, self.batch.counted = loss, counted

    def backward(self) -> None:
        """Accumulate the gradients of `batch.loss` in the parameters, weighted as in the mean loss of the step."""
        batch = self.batch
        if not batch.loss.requires_grad:
            own = "" if self.loop.part is None else f" of the optimizer {self.loop.part!r}"
            raise ArgumentError(
                f"Learner: the loss must depend on a trained parameter{own}; all parameters{own} are frozen "
                "(requires_grad=False), or the loss was computed without gradients."
            )
        loop = self.loop
        if not loop.pending_batches:
            self.engine.rescale(self.opt)
            loop.step_loss = StepLoss(self.engine)
            if batch.remaining > 1:
                loop.kept.hold(self._params())
        weight = loop.step_loss.add(batch)
        if self.engine.recomputes_loss(self.opt):
            earlier = self._step_batches if loop.pending_batches else []
            self._step_batches = [*earlier, replace(batch, output=None, loss=None)]
        recompute = self._recompute_losses if batch.is_last_microbatch else None
        try:
            self.engine.backward(backpropagated(batch.loss, weight), self.opt, recompute)
        except RuntimeError as error:
            error_hints.explain_loss(batch.output, batch.y, error)
            raise
        if batch.is_last_microbatch:
            error_hints.check_all_used(self)
        if batch.is_last_microbatch and loop.pending_batches:
            self._scale_gradients()

    def _scale_gradients(self) -> None:
        """Turn the accumulated gradients into those of the mean loss of the step."""
        factor = self.loop.step_loss.factor
        if isinstance(factor, Tensor) or factor != 1:
            multiply_gradients([p.grad for p in self._params() if p.grad is not None], factor)
            if hasattr(self.opt, "_scale_products"):
                self.opt._scale_products(factor)
        self.loop.kept.add_back()

    def _params(self) -> set[Tensor]:
        """Return the parameters of the model and of the optimizer."""
        return {*self.model.parameters(), *group_params(self.opt)}

    def step(self) -> None:
        """Run the optimizer step, and set `batch.stepped`."""
        self.batch.stepped = self.engine.step(self.opt)

    def zero_grad(self) -> None:
        """Clear the gradients after a step."""
        self.opt.zero_grad()

    def _recompute_losses(self) -> Tensor:
        """Backpropagate the losses of all micro-batches of this step again, without events; return their sum."""
        assert self._module is not None
        total = torch.zeros((), device=self.engine.device)
        current = self.batch
        for batch in self._step_batches:
            self.batch = replace(batch)
            synced = nullcontext() if batch.is_last_microbatch else self.engine.no_sync(self._module)
            with synced, self.loop.logged.paused():
                self.loop.fit_loop.compute_loss()
                step = self.loop.step_loss
                loss = backpropagated(self.batch.loss, step.weight(batch.count, step.total))
                loss.backward()
                total = total + loss.detach()
                del loss  # otherwise it would occupy memory during the next forward pass
        self.batch = current
        return total

    # ---- for callbacks ----------------------------------------------------------------------------------------------

    def log(self, name: str, value: float | Tensor) -> None:
        """Log a value, whose mean over the current phase becomes `history[epoch][phase][name]`.

        All loggers, the table and the record of a run show the values in `history`. The mean is weighted by the
        examples of the batches in which the value was logged, over all ranks; a value logged in `before_epoch` or
        `after_epoch` has the weight of one example. In `after_epoch`, all ranks must call this method, from callbacks
        with an `order` below that of loggers, 60. A resumed fit has the same means as an uninterrupted fit, if values
        are logged before the checkpoint of their batch, by callbacks with an `order` below 90.

        Args:
            name: Name of the value, which must not be "loss" or the name of a metric.
            value: A number, or a 0-d tensor on any device, which is read later to avoid a host sync.

        Raises:
            ArgumentError: If the name is reserved, or the value is neither a number nor a 0-d tensor.
            RunError: If called outside of a phase of a fit.

        Example:
            >>> import dashpot as dp
            >>> from dashpot import tasks
            >>> class LogMargin(Callback):
            ...     def after_predict(self, learner):
            ...         top = learner.batch.output.topk(2).values
            ...         learner.log("margin", (top[:, 0] - top[:, 1]).mean())
            >>> learner = Learner.of(tasks.get("digits").build(seed=0), dp.AdamW, lr=0.01, engine=Engine("cpu"))
            >>> learner.fit(1, callbacks=[LogMargin()])
            >>> sorted(learner.history[0]["eval"])
            ['accuracy', 'loss', 'margin']
        """
        logged_values.log(self, name, value)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the model, wrapped by the engine, under the engine's autocast."""
        assert self._module is not None
        try:
            with self.engine.autocast():
                return self._module(*inputs, **named)
        except error_hints.ERRORS as error:
            error_hints.explain_forward(self, inputs, named, error)
            raise

    def update_batchnorm(self, loader: ResumableLoader) -> None:
        """Run the batches of the current epoch through the model in training mode, to update batch-norm statistics.

        The event `before_batch`, with `training` False, and the action `predict`, once for each of several optimizers,
        are called, so that callbacks may change the model's input. The learner's attributes are restored afterwards,
        but the output and the loss of the last batch are released.
        """
        if self.loop.event.endswith(("_epoch", "_fit")):  # within a batch, the fit still needs them
            release_output(self)
        loop, event, training = self.loop.fit_loop, self.loop.event, self.model.training
        try:
            with restored_attributes(self, unwrapped=True), self.loop.logged.paused():
                self.training = False
                self.model.train()
                for index, batch in enumerate(self.loop.plan.side_pass(loader, self.epoch)):
                    self.batch, batch.index = batch, index
                    with suppress(CancelBatch):
                        loop.notify("before_batch")
                        for part in self.loop.optimizers or [None]:
                            with turn(self, part):
                                loop.actions["predict"]()
        finally:
            self.model.train(training)
            self.loop.event = event

    @property
    def epochs(self) -> int:
        """Number of epochs of the fit."""
        return self.loop.plan.epochs

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps in the whole fit, including skipped steps.

        Raises:
            ArgumentError: If the number is unknown, because the training data have no length.
        """
        return self.loop.plan.total_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the state for resuming the fit at `loop.position`, as plain data and tensors.

        Must be called on all ranks.

        Raises:
            RunError: If called before the first fit, while gradients are accumulated (from `after_backward` to the end
                of a batch and between the micro-batches of a step, because the ranks have not reduced them yet), or
                while the model contains averaged weights.
        """
        if not hasattr(self, "loop"):
            raise RunError("Learner: state_dict must be called during or after a fit.")
        if self.loop.pending_batches:
            raise RunError(
                f"Learner: state_dict must be called between optimizer steps, got {self.loop.pending_batches} "
                "accumulated micro-batches; call it in after_batch if batch.is_last_microbatch."
            )
        return fit_state.take(self)
