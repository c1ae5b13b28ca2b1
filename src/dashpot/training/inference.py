"""Evaluation and prediction outside the phases of a fit. A running fit is not affected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from dashpot.constraints import shown
from dashpot.errors import ArgumentError, RunError
from dashpot.tasks.batch_size import batch_size
from dashpot.tasks.evaluation import evaluation_mode
from dashpot.tasks.running_means import RunningMeans
from dashpot.training.callback import CallbackList, CancelBatch, CancelEpoch, CancelFit
from dashpot.training.callbacks.average import averages_in_model, unloaded_averages
from dashpot.training.fit_loop import FitLoop
from dashpot.training.fit_plan import FitPlan
from dashpot.training.loader import ResumableLoader
from dashpot.training.loop_state import LoopState
from dashpot.training.predictions import concatenate
from dashpot.training.side_pass import restored_attributes, side_pass
from dashpot.utils.nested import cpu_copies

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

P = ParamSpec("P")
R = TypeVar("R")

_LOCK = threading.Lock()


def exclusive(method: Callable[Concatenate[Learner, P], R]) -> Callable[Concatenate[Learner, P], R]:
    """Decorate a method of the learner that must not run during a different one.

    `fit` runs alone. `evaluate` and `predict` may also run within a fit, in its thread.
    """

    @wraps(method)
    def call(learner: Learner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            check_idle(learner, method.__name__)
            learner._calls.append((method.__name__, threading.get_ident()))
        try:
            return method(learner, *args, **kwargs)
        finally:
            learner._calls.pop()

    return call


def check_idle(learner: Learner, name: str) -> None:
    """Check that the method `name` may start.

    Raises:
        RunError: If `fit`, `evaluate` or `predict` is running, except for a fit that calls `evaluate` or `predict` in
            its own thread.
    """
    if not learner._calls:
        return
    running, thread = learner._calls[-1]
    if running == "fit" and name in ("evaluate", "predict"):
        if thread == threading.get_ident():
            return
        raise RunError(f"Learner: {name} must be called in the thread of the running fit, for example by a callback.")
    advice = "to evaluate within a fit, call learner.evaluate()"
    if running != "fit":
        advice = "a callback can check learner.training, which is False then"
    raise RunError(f"Learner: {name} must not be called during {running} of the same learner; {advice}.")


def evaluate(learner: Learner, data: Any) -> dict[str, float]:
    """Return the means of the loss and the metrics over `data`; see `Learner.evaluate`."""
    if data is None and learner.evaluation is None:
        raise ArgumentError("evaluate: data must be given, because the learner has no evaluation data.")
    loader: Any = learner.evaluation if data is None else _loader("evaluate", ResumableLoader, data, learner)
    with _inference(learner, loader, "evaluate") as loop:
        with suppress(CancelEpoch, *(() if _in_fit(learner) else (CancelFit,))):
            loop.run_batches()
        return loop.phase_means()


def predict(learner: Learner, data: Any, labelled: bool | None) -> Any:
    """Return the outputs of the model for `data`; see `Learner.predict`."""
    if not isinstance(labelled, (bool, type(None))):
        raise ArgumentError(f"predict: labelled must be True, False or None, got {shown(labelled)}.")
    loader = _loader("predict", _InputLoader, data, learner)
    loader.labelled = labelled
    parts: list[tuple[int, Any]] = []  # number of examples and outputs of each batch on this rank
    with _inference(learner, loader, "predict") as loop:
        for index, batch in enumerate(loader.batches(learner.epoch)):
            learner.batch = batch
            batch.index = index
            _predict_batch(learner, loop)
            parts.append((batch.size, cpu_copies(batch.output)))  # the model may reuse the memory
    ranks = learner.engine.all_gather(parts)
    # Within a batch, the first ranks have the first examples; a rank without examples computes one that is discarded.
    return concatenate([rank[index] for index in range(len(parts)) for rank in ranks if rank[index][0]], len(ranks))


def _predict_batch(learner: Learner, loop: FitLoop) -> None:
    """Compute `batch.output`, with the events of an evaluation phase up to `after_predict`."""
    error: type[BaseException] | None = None
    try:
        loop.notify("before_batch")
        loop.actions["predict"]()
        loop.notify("after_predict")
    except (CancelBatch, CancelEpoch, CancelFit) as cancel:
        number = learner.batch.index + 1
        raise RunError(
            f"predict: no batch must be cancelled, but {type(cancel).__name__} was raised in batch {number}."
        ) from cancel
    except BaseException as raised:
        error = type(raised)
        raise
    finally:
        learner.loop.unwinding, learner.loop.event = error, "cleanup_batch"
        learner.loop.callbacks.notify_cleanup("cleanup_batch", learner, within=CancelBatch)


class _InputLoader(ResumableLoader):
    """Loader of batches without targets.

    Attributes:
        labelled: Whether the items of the source are pairs (x, y). Targets are ignored. If None, tuples and lists of
            two elements are pairs.
    """

    labelled: bool | None = None

    def _count(self, x: Any, y: Any, known: int | None) -> int:
        """Return the number of examples; if one process cannot count them, the length of a list, or else 1."""
        if known is not None:
            return known
        try:
            return batch_size(x, y, owner=f"Learner: {self.owner}")  # `size` requires a target
        except ArgumentError:
            if self.engine.world_size > 1:
                raise
            return len(x) if isinstance(x, list) else 1

    def _pair(self, item: Any) -> tuple[Any, Any]:
        is_sequence = isinstance(item, (tuple, list)) and not hasattr(item, "_fields")
        if self.labelled:
            return super()._pair(item)[0], None
        if is_sequence and len(item) == 1:  # a TensorDataset of one tensor
            return item[0], None
        return (item[0] if self.labelled is None and is_sequence and len(item) == 2 else item), None


def _loader(owner: str, kind: type[Any], data: Any, learner: Learner) -> Any:
    """Return a loader of `data`.

    Raises:
        ArgumentError: If `data` is not a source of batches, or is the source of the running phase, whose only iterator
            would be restarted.
    """
    if isinstance(data, np.ndarray):
        raise ArgumentError(
            f"{owner}: data must yield batches, such as dashpot.data.Batches(x, y, batch_size=64) or a DataLoader, got "
            f"an array of shape {data.shape}; convert it, as in torch.from_numpy(x)."
        )
    is_pair = isinstance(data, (tuple, list) if kind is ResumableLoader else tuple) and len(data) > 0
    if isinstance(data, Tensor) or (is_pair and all(isinstance(item, Tensor) for item in data)):
        count = f"{type(data).__name__} of {len(data)} tensors"
        got = f"a tensor of shape {tuple(data.shape)}" if isinstance(data, Tensor) else f"a {count}"
        raise ArgumentError(
            f"{owner}: data must yield batches, such as dashpot.data.Batches(x, y, batch_size=64) or a DataLoader, got "
            f"{got}."
        )
    if getattr(data, "persistent_workers", False) and _in_fit(learner) and learner.loop.loader.source is data:
        raise ArgumentError(
            f"{owner}: data must not be the DataLoader of the running phase if persistent_workers=True, because its "
            "workers would be restarted; use a second DataLoader."
        )
    return kind(data, learner.engine, "data", learner.train.size_function)


def _in_fit(learner: Learner) -> bool:
    return learner._calls[0][0] == "fit"


@contextmanager
def _inference(learner: Learner, loader: ResumableLoader, owner: str) -> Iterator[FitLoop]:
    """Prepare the model and the learner for an evaluation phase over `loader`, and restore both on exit.

    Callbacks other than observers take part. During a fit, averaged weights are in the model.
    """
    in_fit = _in_fit(learner)
    if in_fit:
        _check_moment(learner, owner)
    learner._set_up_model()
    with ExitStack() as restored:
        if in_fit:
            restored.enter_context(averages_in_model(learner))
        restored.enter_context(side_pass(loader))
        restored.enter_context(evaluation_mode(learner.model))
        restored.enter_context(torch.no_grad())
        restored.enter_context(_restored_buffer_sync(learner._module))
        restored.enter_context(restored_attributes(learner))
        learner.loop = _loop_state(learner, loader)
        learner.training, learner.epoch = False, getattr(learner, "epoch", 0)
        learner.loop.fit_loop = FitLoop(learner)
        yield learner.loop.fit_loop


@contextmanager
def _restored_buffer_sync(module: Any) -> Iterator[None]:
    """Restore the flag of DDP that a forward pass without gradients sets."""
    saved = getattr(module, "require_forward_param_sync", None)
    try:
        yield
    finally:
        if saved is not None:
            module.require_forward_param_sync = saved


def _loop_state(learner: Learner, loader: ResumableLoader) -> LoopState:
    """Return the state of an evaluation phase, with the callbacks of the running or last fit."""
    before = getattr(learner, "loop", None)
    callbacks = learner._callbacks if before is None else before.callbacks
    taking_part = CallbackList([callback for callback in callbacks if callback.essential])
    plan = FitPlan(learner.train, 1) if before is None else before.plan
    means, phases = RunningMeans(learner.metrics), {"train": False, "eval": True}
    state = LoopState(taking_part, means, phases, override=False, plan=plan, phase="eval", loader=loader)
    state.optimizers = {} if before is None else before.optimizers
    return state


def _check_moment(learner: Learner, owner: str) -> None:
    """Check that no graph refers to weights that averages would replace.

    Raises:
        RunError: If the fit has averaged weights and is between the forward and the backward pass of a batch.
    """
    loop = learner.loop
    before_backward = loop.event in ("before_batch", "after_predict", "after_loss") and learner.training
    if before_backward and learner.batch.output is not None and unloaded_averages(learner):
        raise RunError(
            f"Learner: with averaged weights, {owner} must not be called between the forward and the backward pass of "
            "a batch; call it in before_batch, after_backward, after_step or after_batch."
        )
