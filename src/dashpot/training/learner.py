"""The learner: model, data, loss and optimizer, and the loop that brings them together."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.constraints import Interval, check
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks import Problem
from dashpot.tasks.means import Means
from dashpot.training.callback import ACTIONS, Callback, CallbackList, CancelBatch, CancelEpoch, CancelFit, listed
from dashpot.training.distributed.engine import Engine
from dashpot.training.loader import ResumableLoader
from dashpot.training.losses import scalar_loss
from dashpot.training.state import fit_state
from dashpot.utils.warn import warn

__all__ = ["Learner"]

EPOCHS = Interval(1, math.inf, "left", integer=True)
MakeOptimizer = Callable[..., Optimizer]


class Learner:
    """Trains a model, evaluates it after every epoch, and tells callbacks everything that happens.

    In order, with the names that callbacks know (`dashpot.training.callback`):

        before_fit
          for each epoch, once to train and once to evaluate (without gradients, in evaluation mode):
            before_epoch
              for each batch:  before_batch, predict, after_predict, get_loss, after_loss,
                               [training:  backward, after_backward, step, after_step, zero_grad], after_batch,
                               cleanup_batch
            after_epoch, cleanup_epoch
        after_fit, cleanup_fit

    predict, get_loss, backward, step and zero_grad are actions, the others events. `after_step` is told where the
    optimizer has stepped: not for a micro-batch that only adds to the gradient, nor for a step that was skipped because
    its gradients were not finite. The cleanup events come whatever happens, errors included.

    Args:
        model: moved to the device of `engine` when a fit begins.
        train: training data: `dashpot.data.Batches` or another stream, or a `DataLoader` of pairs (x, y).
        evaluation: evaluation data of the same kind, or None.
        loss: maps (output, y) to the mean loss of the batch, a 0-d tensor.
        optimizer: a torch optimizer over the model's parameters, used by every fit; or what makes one, called as
            `optimizer(model.parameters(), lr=lr)` (without lr if none is given) at the start of every fit.
        lr: learning rate for what makes the optimizer.
        metrics: name to a function that maps (output, y) to the *sum* of the metric over the batch.
        evaluation_loss: what evaluation reports as the loss, such as one without label smoothing; by default `loss`.
        callbacks: take part in every fit.
        engine: device, precision and processes; by default one process on the accelerator there is.

    Raises:
        ArgumentError: an argument is of the wrong kind, or a phase has no batches.

    While it runs, callbacks find here: `model`, `opt`, `engine`; `epochs` (of the fit), `epoch` (from 0), `training`,
    `phase` ("train" or "eval"), `batch` (number in the phase), `x`, `y`, `size`, `output`, `loss`; `steps` (that the
    optimizer has taken since the start of the run), `steps_in_epoch`, `total_steps`, and `stepped` (whether it has
    on this batch); `accumulate`, the batches for a step, which a callback may set before the fit; `waiting`, those
    whose gradients wait for their step; `grad_norm`, the norm of the step's gradients before clipping, where a callback
    has measured it; `position`, the (epoch, batch) that comes next; `means` of the phase, and `history`, a list of
    {"train": {...}, "eval": {...}}; `stopped`, None or why a callback ends the fit: after this epoch, or at
    once where it raises `CancelFit` as well; `leaving`, in a cleanup event, the type of the exception that goes on from
    there: an error, or a cancellation of more than what is cleaned up; None where there is none.

    >>> import dashpot as dp
    >>> from dashpot import tasks
    >>> problem = tasks.get("digits").build(seed=0)
    >>> learner = Learner.of(problem, dp.AdamW, lr=0.01, engine=Engine("cpu"))
    >>> learner.fit(2)
    >>> len(learner.history), learner.steps, learner.history[-1]["eval"]["accuracy"] > 0.7
    (2, 60, True)
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        evaluation: Any = None,
        *,
        loss: Callable[[Any, Any], Tensor],
        optimizer: Optimizer | MakeOptimizer,
        lr: float | None = None,
        metrics: Mapping[str, Callable[[Any, Any], Tensor]] | None = None,
        evaluation_loss: Callable[[Any, Any], Tensor] | None = None,
        callbacks: Sequence[Callback] = (),
        engine: Engine | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"Learner: model must be a torch.nn.Module, got {model!r}.")
        if not isinstance(optimizer, Optimizer) and not callable(optimizer):
            raise ArgumentError(f"Learner: optimizer must be one, or a function that makes one, got {optimizer!r}.")
        for name, function in (("loss", loss), ("evaluation_loss", evaluation_loss)):
            if not callable(function) and not (function is None and name == "evaluation_loss"):
                raise ArgumentError(f"Learner: {name} must be a function of (output, y), got {function!r}.")
        if metrics is not None and not _are_metrics(metrics):
            raise ArgumentError(
                f"Learner: metrics must be a mapping of names to functions of (output, y), got {metrics!r}."
            )
        self.engine = Engine() if engine is None else engine
        self.model, self.loss_function, self.optimizer, self.lr = model, loss, optimizer, lr
        self.evaluation_loss = loss if evaluation_loss is None else evaluation_loss
        if "loss" in (metrics or {}):
            raise ArgumentError("Learner: metrics must not have the name 'loss', which is the loss's own.")
        self.metrics, self.callbacks = dict(metrics or {}), listed(callbacks)
        self.train = ResumableLoader(train, self.engine, "train")
        self.evaluation = None if evaluation is None else ResumableLoader(evaluation, self.engine, "evaluation")
        self.module: nn.Module | None = None
        self.opt: Any = optimizer if isinstance(optimizer, Optimizer) else None
        self.defaults = {} if self.opt is None else fit_state.defaults(self.opt)
        self.history: list[dict[str, dict[str, float]]] = []
        self.steps, self.position, self.accumulate, self.pending_batches = 0, (0, 0), 1, 0
        self._step_batches: list[tuple[Any, Any, float]] = []
        self.stopped: str | None = None
        self.unwinding: type[BaseException] | None = None
        self.event = ""
        self.override = False
        self.grad_norm: Tensor | None = None
        CallbackList(self.callbacks)

    @classmethod
    def of(cls, problem: Problem, optimizer: Optimizer | MakeOptimizer, **options: Any) -> Learner:
        """A learner of a task's problem; `options` are the learner's own."""
        losses = {"loss": problem.loss, "evaluation_loss": problem.evaluation_loss}
        shape = {**losses, "metrics": problem.metrics, "optimizer": optimizer}
        return cls(problem.model, problem.train, problem.evaluation, **shape, **options)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def fit(
        self,
        epochs: int,
        *,
        lr: float | None = None,
        callbacks: Sequence[Callback] = (),
        train: bool = True,
        evaluate: bool = True,
        resume: Mapping[str, Any] | None = None,
        override: bool = False,
    ) -> None:
        """Run the loop.

        Args:
            epochs: in all, those that `resume` has done included.
            lr: in place of the learner's own.
            callbacks: take part in this fit only.
            train, evaluate: whether to have these phases.
            resume: what `state_dict()` returned during an earlier fit: this one goes on where that was.
            override: go on although optimizer, schedule, precision or the like are set otherwise here than there.

        Raises:
            ArgumentError: an argument is out of range, or the loss is no scalar.
            RunError: `resume` is of another model, optimizer or data, or of other settings without `override`; the
                differences are listed.
        """
        check("fit", "epochs", epochs, EPOCHS)
        callback_list = CallbackList([*self.callbacks, *listed(callbacks)])
        self._prepare(self.lr if lr is None else lr)
        self.epochs, self.epoch, self.training = epochs, 0, True
        self.history, self.steps, self.position, self.accumulate = [], 0, (0, 0), 1
        self.stopped, self.override = None, override
        self.phases = {"train": train, "eval": evaluate and self.evaluation is not None}
        self.callback_list = callback_list
        self._do = {name: callback_list.wrap_action(name, self, getattr(self, name)) for name in ACTIONS}
        try:
            self._scope("fit", CancelFit, lambda: self._epochs(resume, override))
        except (CancelBatch, CancelEpoch) as wish:
            scope = "batch" if isinstance(wish, CancelBatch) else "epoch"
            raise RunError(f"Learner: {type(wish).__name__} was raised where there is no {scope} to end.") from wish

    def _prepare(self, lr: float | None) -> None:
        """Put the model in place and make the optimizer."""
        made = isinstance(self.optimizer, Optimizer)
        if made and lr is not None:
            raise ArgumentError("Learner: lr is given with an optimizer that is made already; set its own lr.")
        if made and self.engine.sharded:
            raise ArgumentError("Learner: strategy='fsdp' makes parameters anew; give what makes the optimizer.")
        if self.module is None:
            self.module = self.engine.setup(self.model)
        opt: Any = self.optimizer
        if not made:
            opt = opt(self.model.parameters(), **({} if lr is None else {"lr": lr}))
        if not isinstance(opt, Optimizer):
            raise ArgumentError(f"Learner: optimizer must make a torch.optim.Optimizer, it made {opt!r}.")
        if _needs_closure(opt):
            raise ArgumentError(
                "Learner: optimizer must step without a closure that computes the loss anew; "
                f"{type(opt).__name__} asks for one."
            )
        if not made:
            self.opt, self.defaults = opt, fit_state.defaults(opt)
        self._drop()

    def _epochs(self, resume: Mapping[str, Any] | None, override: bool) -> None:
        if resume is not None:
            fit_state.restore(self, resume, override)
            self._random = resume["random"]
            self.epoch = max(0, self.position[0] - 1)  # the last one done, where none is left to do
        for epoch in range(self.position[0], self.epochs):
            if self.stopped is not None:  # a callback wants no further epoch
                break
            self.epoch = epoch
            if self.phases["train"]:
                self._phase("train", self.train, self.position[1])
            if self.phases["eval"]:
                with torch.no_grad():
                    self._phase("eval", self.evaluation)
            self.position = (self.epoch + 1, 0)

    def _phase(self, name: str, loader: Any, start: int = 0) -> None:
        """One phase of an epoch, from batch number `start` on."""
        self.phase, self.training, self.loader, self.batch = name, name == "train", loader, start
        if start == 0:
            self.means = Means(self.metrics)
        if len(self.history) <= self.epoch:
            self.history.append({})
        self.model.train(self.training)
        self._scope("epoch", CancelEpoch, lambda: self._batches(start), cut=self._close)

    def _batches(self, start: int) -> None:
        self._each_batch(start)
        self._close()

    def _each_batch(self, start: int) -> None:
        if start:  # going on within an epoch: what before_epoch draws was drawn before the epoch's first batch
            fit_state.restore_random(self, self._random)
        for number, batch in enumerate(self.loader.batches(self.epoch, start), start):
            self.batch = number
            self.x, self.y, self.size, self.weight = batch
            self.stepped, self.grad_norm = False, None
            if self.training and self.pending_batches and number % self.accumulate == 0:
                self._drop()
            before = self.pending_batches
            self._scope("batch", CancelBatch, self._batch)
            if self.training and before and self.pending_batches == before and self.is_last_microbatch:
                self._step_without_last()
            if self.training:
                self.position = (self.epoch, number + 1)

    def _close(self) -> None:
        """What there is after a phase, also after one that is cut short on purpose."""
        if self.training and self.pending_batches:
            self._drop()
        self.history[self.epoch][self.phase] = self.means.values(self.engine.all_reduce_sum)
        if self.phase == "eval" or not self.phases["eval"]:
            self.position = (self.epoch + 1, 0)

    def _batch(self) -> None:
        more = self.training and not self.is_last_microbatch
        with self.engine.no_sync(self.module) if more else nullcontext():  # pyright: ignore[reportArgumentType]
            self._do["predict"]()
            self.notify("after_predict")
            self._do["get_loss"]()
            self.notify("after_loss")
            if self.training:
                try:
                    self._do["backward"]()
                finally:  # a gradient may be there, whatever a callback does after it
                    self.pending_batches += 1
                self.notify("after_backward")
        if self.training:
            if self.is_last_microbatch:
                self._step()
            self.position = (self.epoch, self.batch + 1)
        if self.size:
            self.means.add(self.output, self.y, self.loss.detach(), self.size)

    def _step(self) -> None:
        try:
            self._do["step"]()
        finally:  # a callback may not have gone on to the optimizer, or have cancelled the batch after it
            self.engine.reset()
            self.steps += self.stepped
        if self.stepped:
            self.notify("after_step")
        self._do["zero_grad"]()
        self.pending_batches = 0

    def _step_without_last(self) -> None:
        """The batch that was to complete a step was cancelled before its gradient: step with those of the others."""
        if self.engine.world_size > 1 or self.engine.recomputes_loss(self.opt):
            # Only the cancelled batch would have reduced the gradients.
            warn(
                f"Learner: batch {self.batch + 1} of epoch {self.epoch + 1}, the last one of its step, was cancelled; "
                f"the gradients of the {self.pending_batches} before it are dropped."
            )
            self._drop()
        else:
            with suppress(CancelBatch):
                self._step()

    def _drop(self) -> None:
        """Drop gradients that a cancellation has left without their step; the next step is not to use them."""
        self.engine.reset()
        self.opt.zero_grad()
        self.pending_batches = 0

    def _scope(
        self, name: str, cancel: type[Exception], body: Callable[[], None], cut: Callable[[], None] | None = None
    ) -> None:
        """Tell `before_`, run the body, tell `after_`. A cancellation leaves the rest out, but for `cut`, which ends
        what it has cut short; cleaning up is never left out."""
        leaving = None
        try:
            self.notify(f"before_{name}")
            body()
            self.notify(f"after_{name}")
        except cancel:
            if cut is not None:
                cut()
        except BaseException as error:
            leaving = type(error)
            raise
        finally:
            self.unwinding, self.event = leaving, f"cleanup_{name}"
            self.callback_list.notify_cleanup(self.event, self, within=cancel)

    def notify(self, event: str) -> None:
        """Tell the callbacks an event."""
        self.event = event
        self.callback_list.notify(event, self)

    # ---- the actions: what the learner itself does of each ----------------------------------------------------------

    def predict(self) -> None:
        """Compute `output` from `x`."""
        assert self.module is not None
        with self.engine.autocast():
            self.output = self.module(self.x)

    def get_loss(self) -> None:
        """Compute `loss`, the mean over the batch, from `output` and `y`."""
        with self.engine.autocast():
            function = self.loss_function if self.training else self.evaluation_loss
            self.loss = scalar_loss(function, self.output, self.y)

    def backward(self) -> None:
        """Add this batch's share of the gradient to the parameters'."""
        if not self.loss.requires_grad:
            raise ArgumentError(
                "Learner: the loss depends on no parameter that is trained: all of them are frozen "
                "(requires_grad=False), or it was computed without gradients."
            )
        if not self.pending_batches:
            self.engine.rescale(self.opt)
        share = self.share
        if self.engine.recomputes_loss(self.opt):
            self._step_batches = [*(self._step_batches if self.pending_batches else []), (self.x, self.y, share)]
        again = self._again if self.is_last_microbatch else None
        self.engine.backward(self.loss if share == 1 else self.loss * share, self.opt, again)

    def step(self) -> None:
        """Let the optimizer step, and note in `stepped` whether it did."""
        self.stepped = self.engine.step(self.opt)

    def zero_grad(self) -> None:
        """Clear the gradients, once they have been used."""
        self.opt.zero_grad()

    def _again(self) -> Tensor:
        """Go backward from the losses of all batches of this step once more; their sum. No event is told."""
        assert self.module is not None
        total = torch.zeros((), device=self.engine.device)
        present = self.x, self.y, self.output, self.loss
        for number, (x, y, share) in enumerate(self._step_batches, 1):
            self.x, self.y, last = x, y, number == len(self._step_batches)
            with nullcontext() if last else self.engine.no_sync(self.module):
                self._do["predict"]()
                self._do["get_loss"]()
                loss = self.loss * share
                loss.backward()
                total = total + loss.detach()
        self.x, self.y, self.output, self.loss = present
        return total

    # ---- what callbacks ask -----------------------------------------------------------------------------------------

    def update_batchnorm(self, loader: ResumableLoader) -> None:
        """Send the epoch's batches through the model in training mode, for what it takes from them, such as statistics.

        `before_batch` is told, with `training` False, and `predict` passes through callbacks: they may change what the
        model is given. No other event is told, and everything here is as before when it is over.
        """
        kept, training = dict(vars(self)), self.model.training
        self.module, self.training = self.model, False  # each process by itself
        self.model.train()
        try:
            for number, batch in enumerate(loader.batches(self.epoch)):
                self.batch, (self.x, self.y, self.size, self.weight) = number, batch
                with suppress(CancelBatch):
                    self.notify("before_batch")
                    self._do["predict"]()
        finally:
            self.model.train(training)
            vars(self).clear()
            vars(self).update(kept)

    @property
    def window(self) -> int:
        """Batches whose gradients make the present step: `accumulate`, or fewer at the end of an epoch."""
        if self.accumulate == 1:  # the length of the data need not be asked for
            return 1
        first = self.batch - self.batch % self.accumulate
        return min(self.accumulate, len(self.loader) - first)

    @property
    def share(self) -> float:
        """What the mean loss of the present batch counts in its step's: by its examples, as far as the data tell."""
        first, window = self.batch - self.batch % self.accumulate, self.window
        if window == 1:
            return self.weight
        return (
            self.weight
            * self.loader.examples(self.batch)
            / sum(map(self.loader.examples, range(first, first + window)))
        )

    @property
    def is_last_microbatch(self) -> bool:
        """Whether the present batch is the last one before the optimizer steps."""
        return (self.batch + 1) % self.accumulate == 0 or self.batch + 1 == len(self.loader)

    @property
    def steps_in_epoch(self) -> int:
        """Steps of the optimizer in one epoch, skipped ones included."""
        return -(-len(self.train) // self.accumulate)

    @property
    def total_steps(self) -> int:
        """Steps of the optimizer in the whole fit, skipped ones included."""
        return self.epochs * self.steps_in_epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything a fit needs to go on from `position`, as plain data and tensors; every process must ask.

        Raises `RunError` while gradients wait for their step, from `after_backward` to the end of a batch and between
        the batches of one step: in several processes they are not added up yet, so a state could not hold them; also
        before the first fit, and after one that has left averaged weights in the model.
        """
        if not hasattr(self, "callback_list"):
            raise RunError("Learner: there is a state only during and after a fit.")
        if self.pending_batches:
            raise RunError(
                f"Learner: state_dict must be called between optimizer steps, got {self.pending_batches} accumulated "
                "micro-batches; call it in after_batch if learner.is_last_microbatch."
            )
        return fit_state.take(self)


def _are_metrics(metrics: Any) -> bool:
    return isinstance(metrics, Mapping) and all(
        isinstance(name, str) and callable(function) for name, function in metrics.items()
    )


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether a step has to be given what computes the loss anew, as that of L-BFGS."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty
