"""Mechanics of a fit: epochs, phases, batches and steps, with their events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import torch

from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.running_means import RunningMeans
from dashpot.training.callback import ACTIONS, CancelBatch, CancelEpoch, CancelFit
from dashpot.training.logged_values import LoggedValues
from dashpot.training.optimizer_dict import turn
from dashpot.training.state import fit_state
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner
    from dashpot.training.loop_state import Batch


class FitLoop:
    """Loop of one fit of a learner. It reads and sets the public attributes of the learner and of `learner.loop`.

    Args:
        learner: Learner whose `loop` is the state of this fit.

    Attributes:
        actions: Actions of the learner by name, wrapped by the callbacks of the fit.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        wrap = learner.loop.callbacks.wrap_action
        performed_by = {"predict": "_predict_batch"}  # `Learner.predict` is the method for any data
        actions = {name: getattr(learner, performed_by.get(name, name)) for name in ACTIONS}
        self.actions = {name: wrap(name, learner, perform) for name, perform in actions.items()}

    def run(self, resume: Mapping[str, Any] | None) -> None:
        """Run the fit, from the state `resume` if given."""
        try:
            self._run_scope("fit", CancelFit, lambda: self._run_epochs(resume))
        except (CancelBatch, CancelEpoch) as cancel:
            scope = "batch" if isinstance(cancel, CancelBatch) else "epoch"
            raise RunError(f"Learner: {type(cancel).__name__} must be raised within a {scope}.") from cancel
        finally:
            self.learner.loop.plan.close()

    def _run_epochs(self, resume: Mapping[str, Any] | None) -> None:
        learner = self.learner
        loop = learner.loop
        if loop.optimizers and loop.accumulate > 1:  # the turns of a step would use weights of different steps
            raise ArgumentError(f"Learner: accumulate must be 1 with several optimizers, got {loop.accumulate}.")
        if resume is not None:
            fit_state.restore(learner, resume, loop.override)
            self._rng_state = resume["random"]
            learner.epoch = max(0, loop.position[0] - 1)  # the last finished epoch, if no epoch is left
        for epoch in range(loop.position[0], learner.epochs):
            if learner.stop_reason is not None and loop.cut_at is None:
                break
            learner.epoch = epoch
            if loop.phases["train"]:
                self._run_phase("train", learner.train, loop.position[1])
            if loop.phases["eval"]:
                with torch.no_grad():
                    self._run_phase("eval", learner.evaluation)
            loop.position = (epoch + 1, 0)
            if loop.cut_at is not None:
                break

    def _run_phase(self, phase: str, loader: Any, start: int = 0) -> None:
        """Run one phase of an epoch, starting at batch `start`."""
        learner = self.learner
        learner.training, learner.loop.phase, learner.loop.loader = phase == "train", phase, loader
        if start == 0:
            learner.loop.means, learner.loop.logged = RunningMeans(learner.metrics), LoggedValues()
        if len(learner.history) <= learner.epoch:
            learner.history.append({})
        learner.model.train(learner.training)

        def run() -> None:
            self.run_batches(start)
            self._end_phase()

        self._run_scope("epoch", CancelEpoch, run, on_cancel=self._end_phase)

    def run_batches(self, start: int = 0) -> None:
        """Run the batches of the current phase, from index `start`."""
        learner = self.learner
        loop = learner.loop
        if start:  # undo random draws of before_epoch, which the saved state already includes
            fit_state.restore_random(learner, self._rng_state)
        for batch in self._batches(start):
            learner.batch = batch
            if learner.training and loop.pending_batches and batch.index == batch.first_microbatch:
                self._discard_gradients()
            before = loop.pending_batches
            self._run_scope("batch", CancelBatch, self._run_batch)
            if learner.training and before and loop.pending_batches == before and batch.is_last_microbatch:
                self._step_without_cancelled()
            if learner.training:
                loop.position = (learner.epoch, batch.index + 1)
                if loop.cut_at is not None:
                    break

    def _batches(self, start: int) -> Iterator[Batch]:
        """Return the batches of the phase from index `start`."""
        learner = self.learner
        if not learner.training:
            return _indexed(learner.loop.loader.batches(learner.epoch))
        if learner.loop.cut_at is not None:  # a time limit had passed before the fit was resumed
            return iter(())
        return learner.loop.plan.batches(learner.epoch, start)

    def phase_means(self) -> dict[str, float]:
        """Return the means of the loss, the metrics and the logged values over the phase so far, over all ranks."""
        loop, engine = self.learner.loop, self.learner.engine
        means = loop.means.values(engine.all_reduce_sum, engine.all_gather)
        return {**means, **loop.logged.means(engine.all_gather)}

    def _end_phase(self) -> None:
        """Record the means of the phase, even if the phase was cancelled."""
        learner = self.learner
        if learner.training and learner.loop.pending_batches:
            self._discard_gradients()
        if learner.training and learner.loop.cut_at is not None:
            learner.loop.plan.cut(learner.epoch)
        learner.history[learner.epoch][learner.loop.phase] = self.phase_means()
        if learner.loop.phase == "eval" or not learner.loop.phases["eval"]:
            learner.loop.position = (learner.epoch + 1, 0)

    def _run_batch(self) -> None:
        learner = self.learner
        batch, loop = learner.batch, learner.loop
        if isinstance(learner._loss, Mapping):
            self._run_turns(list(learner._loss))
        else:
            self._compute_gradients()
            if learner.training and batch.is_last_microbatch:
                self._run_step()
        if learner.training:
            loop.position = (learner.epoch, batch.index + 1)
        if batch.size:
            loop.means.add(batch.output, batch.y, batch.loss.detach(), batch.size, batch.counted)

    def _compute_gradients(self) -> None:
        """Run the actions up to the backward pass; without a backward pass in an evaluation."""
        learner = self.learner
        accumulates = learner.training and not learner.batch.is_last_microbatch
        with learner.engine.no_sync(learner._module) if accumulates else nullcontext():  # pyright: ignore[reportArgumentType]
            self.actions["predict"]()
            self.notify("after_predict")
            self.actions["get_loss"]()
            self.notify("after_loss")
            if learner.training:
                try:
                    self.actions["backward"]()
                finally:  # gradients may exist even if a callback raised after the backward pass
                    learner.loop.pending_batches += 1
                self.notify("after_backward")

    def compute_loss(self) -> None:
        """Perform the actions `predict` and `get_loss` without their events."""
        self.actions["predict"]()
        self.actions["get_loss"]()

    def _run_turns(self, names: Sequence[str]) -> None:
        """Run the actions once for each of several optimizers, with its own loss."""
        learner = self.learner
        batch, losses, stepped = learner.batch, {}, False
        try:
            for name in names:
                batch.stepped, batch.grad_norm = False, None
                with turn(learner, name):
                    self._compute_gradients()
                    losses[name] = batch.loss.detach()
                    if learner.training:
                        try:
                            self._step()
                        finally:
                            stepped |= batch.stepped
                        self._zero_grad()
        finally:
            learner.steps += stepped
        batch.loss, batch.stepped = sum(losses.values()), stepped
        for name, loss in losses.items():
            learner.loop.logged.add(f"loss_{name}", loss, batch.size)
        if stepped:
            self.notify("after_step")

    def _run_step(self) -> None:
        learner = self.learner
        try:
            self._step()
        finally:  # a callback may have replaced the step, or cancelled the batch after it
            learner.steps += learner.batch.stepped
        if learner.batch.stepped:
            self.notify("after_step")
        self._zero_grad()

    def _step(self) -> None:
        try:
            self.actions["step"]()
        finally:
            self.learner.engine.reset()

    def _zero_grad(self) -> None:
        self.actions["zero_grad"]()
        self.learner.loop.pending_batches = 0

    def _step_without_cancelled(self) -> None:
        """Step with the gradients of the other micro-batches if the last one was cancelled before its backward pass."""
        learner = self.learner
        if learner.engine.world_size > 1 or learner.engine.recomputes_loss(learner.opt):
            # The gradients are not reduced yet; the cancelled backward pass would have reduced them.
            batch, epoch, pending = learner.batch.index + 1, learner.epoch + 1, learner.loop.pending_batches
            warn(
                f"Learner: batch {batch} of epoch {epoch}, the last micro-batch of a step, was cancelled; discarding "
                f"the gradients of {pending} micro-batches."
            )
            self._discard_gradients()
        else:
            learner._scale_gradients()
            with suppress(CancelBatch):
                self._run_step()

    def _discard_gradients(self) -> None:
        """Clear the gradients accumulated for a step that was cancelled."""
        learner = self.learner
        learner.engine.reset()
        learner.opt.zero_grad()
        learner.loop.pending_batches = 0

    def _run_scope(
        self, name: str, cancel: type[Exception], body: Callable[[], None], on_cancel: Callable[[], None] | None = None
    ) -> None:
        """Run `body` between the before and after events of a scope, and always call the cleanup event of the scope.

        A cancellation of type `cancel` ends the scope: the rest of `body` is skipped, `on_cancel` is called, and the
        exception does not propagate.
        """
        learner = self.learner
        unwinding = None
        try:
            self.notify(f"before_{name}")
            body()
            self.notify(f"after_{name}")
        except cancel:
            if on_cancel is not None:
                on_cancel()
        except BaseException as error:
            unwinding = type(error)
            raise
        finally:
            learner.loop.unwinding, learner.loop.event = unwinding, f"cleanup_{name}"
            learner.loop.callbacks.notify_cleanup(learner.loop.event, learner, within=cancel)

    def notify(self, event: str) -> None:
        """Call the callbacks' methods for `event`."""
        learner = self.learner
        learner.loop.event = event
        learner.loop.callbacks.notify(event, learner)


def _indexed(batches: Iterator[Batch]) -> Iterator[Batch]:
    for index, batch in enumerate(batches):
        batch.index = index
        yield batch
