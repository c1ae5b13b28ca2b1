"""The learning-rate range test: a short run with a rising rate, of which nothing remains but its curve."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot._torch_private import module_buffers
from dashpot.constraints import POSITIVE, Interval, Optional, check
from dashpot.errors import ArgumentError, RunError
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.side_pass import check_initialized, reshard, side_pass
from dashpot.utils.smoothing import smooth

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from dashpot.training.learner import Learner

__all__ = ["LRCurve", "Suggestion", "find_lr"]

FACTOR = 1.3
SPAN = 3.0
"""The losses are smoothed over rates that lie within this factor."""
PATIENCE = 32
"""Skipped steps in a row after which the test ends."""
STEPS = Optional(Interval(2, math.inf, "left", integer=True))


class Suggestion(NamedTuple):
    """Learning rates read off a curve; None where it gives none, because the loss never falls."""

    steepest: float | None
    minimum: float | None


@dataclass(frozen=True)
class LRCurve:
    """What the range test measured: `losses[i]` is the loss just before the step with `lrs[i]`.

    `ended` says why it went no further. Losses are finite: the one that ended the test by being nan is not there.

    >>> curve = LRCurve([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.0, 0.5, 4.0], "by hand")
    >>> curve.suggest()
    Suggestion(steepest=0.01, minimum=0.01)
    """

    lrs: list[float]
    losses: list[float]
    ended: str

    @property
    def smoothed(self) -> list[float]:
        """The losses as a centred moving average over rates within a factor of 3, at the ends over what is there."""
        if len(self.lrs) < 2:
            return list(self.losses)
        step = math.log(self.lrs[-1] / self.lrs[0]) / (len(self.lrs) - 1)
        return smooth(self.losses, 1 + 2 * int(math.log(SPAN) / step / 2)).tolist()

    def suggest(self) -> Suggestion:
        """Two rates to begin with, from the smoothed loss L up to the rate m at which it is lowest.

            steepest: where dL / d(log lr) is lowest; the derivative at a point is that of the parabola through it and
                      its neighbours, at an end the difference quotient,
            minimum:  m / 10.

        They agree within a small factor for many models. The steepest is the more careful one where the loss falls
        over a wide range of rates. Both are None where L is lowest at the first rate.

        Source: L. Smith, Cyclical learning rates for training neural networks, 2017 (the range test).
        """
        losses = np.asarray(self.smoothed)
        lowest = int(losses.argmin()) if len(losses) else 0
        if lowest == 0:
            return Suggestion(None, None)
        slopes = np.gradient(losses, np.log(self.lrs))[: lowest + 1]
        return Suggestion(self.lrs[int(slopes.argmin())], self.lrs[lowest] / 10)

    def plot(self) -> Figure:
        """A plotly figure of loss against rate with the suggestions marked.

        Raises:
            ArgumentError: plotly is not installed.
        """
        try:
            import plotly.graph_objects as go
        except ImportError as error:
            raise ArgumentError("Plotting a curve needs plotly: pip install 'dashpot[plot]'.") from error
        smoothed = self.smoothed
        figure = go.Figure()
        figure.add_scatter(x=self.lrs, y=self.losses, mode="lines", name="loss", opacity=0.35)
        figure.add_scatter(x=self.lrs, y=smoothed, mode="lines", name="smoothed", line={"width": 3})
        for name, lr in self.suggest()._asdict().items():
            if lr is not None:
                height = float(np.interp(math.log(lr), np.log(self.lrs), smoothed))
                label = f"{_LABELS[name]}: {lr:.2g}"
                figure.add_scatter(x=[lr], y=[height], mode="markers", name=label, marker={"size": 12})
        low, high = _window(smoothed)
        figure.update_layout(template="plotly_white", xaxis_title="learning rate", yaxis_title="loss")
        figure.update_xaxes(type="log", exponentformat="power")
        figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
        return figure

    def text(self, width: int = 64, height: int = 12) -> str:
        """The smoothed curve drawn in characters, with the suggestions below it in words."""
        return "\n".join([*_drawing(self, width, height), "", *self._words()])

    def __str__(self) -> str:
        return self.text()

    def _words(self) -> list[str]:
        found = self.suggest()
        last = f"{self.lrs[-1]:.3g}" if self.lrs else "the first rate"
        words = [f"{_LABELS[name]:<24} {lr:.2g}" for name, lr in found._asdict().items() if lr is not None]
        if not words:
            words = ["The loss did not fall at any rate: begin lower, or with other weights."]
        return [*words, f"The test ended at {last}: {self.ended}."]


_LABELS = {"steepest": "steepest descent", "minimum": "a tenth of the lowest's"}


def find_lr(
    learner: Learner,
    start: float = 1e-5,
    end: float = 10.0,
    *,
    factor: float | None = None,
    steps: int | None = None,
    stop_at: float = 3.0,
    callbacks: Sequence[Callback] = (),
) -> LRCurve:
    """Train for a few steps with a rate that rises from `start` by `factor` a step, and put everything back.

    It ends at `end`, or before where the loss is not finite, or its mean over the last rates, those within a factor of
    3, is above `stop_at` times the lowest such mean so far (for a lowest mean b < 0: above b + (stop_at - 1) |b|): a
    single batch that is hard by chance ends nothing. Of several parameter groups the first has the rate of the curve,
    the others keep their ratio to it. A schedule that the optimizer has of its own is off. A step that is skipped, as
    by the loss scaler of fp16, is taken again at the same rate. Data that do not last begin again. Nothing is
    evaluated.

    Afterwards, also after an error or Ctrl-C, weights, buffers, gradients, the state of an optimizer that was given
    made, the loss scale, random generators, the place in the data, each module's mode and everything the learner counts
    are as before; only the model has been moved to its device. The learner's callbacks take no part.

    Args:
        learner: as it would be trained.
        start, end: positive, start < end.
        factor: above 1; by default 1.3.
        steps: integer >= 2, in place of `factor`: so many rates from `start` to `end`.
        stop_at: above 1.
        callbacks: take part, such as `Accumulate` or `ClipGradients`.

    Raises:
        ArgumentError: an argument is out of range.
        RunError: not one step could be taken.

    Source: the loop of the SlowAI notebooks; L. Smith, Cyclical learning rates for training neural networks, 2017.

    >>> from dashpot import AdamW, tasks
    >>> from dashpot.training import Engine, Learner
    >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, engine=Engine("cpu"))
    >>> curve = find_lr(learner)
    >>> curve.lrs[0], 1e-4 < curve.suggest().steepest < 1e-1
    (1e-05, True)
    """
    rates = _rates(start, end, factor, steps)
    check("find_lr", "stop_at", stop_at, Interval(1, math.inf))
    finder = _Finder(rates, float(stop_at))
    check_initialized(learner.model, "find_lr")
    with unchanged(learner):
        learner._callbacks = []
        lr = learner._lr if learner._lr is not None or not _takes_lr(learner._optimizer) else start
        learner.fit(len(rates) + PATIENCE, lr=lr, callbacks=[finder, *callbacks], evaluate=False)
    curve = LRCurve(rates[: len(finder.losses)], finder.losses, finder.ended)
    if not curve.losses:
        raise RunError(f"find_lr: no step could be taken: {curve.ended}.")
    return curve


def _rates(start: float, end: float, factor: float | None, steps: int | None) -> list[float]:
    check("find_lr", "start", start, POSITIVE)
    check("find_lr", "end", end, Interval(start, math.inf))
    check("find_lr", "factor", factor, Optional(Interval(1, math.inf)))
    check("find_lr", "steps", steps, STEPS)
    if factor is not None and steps is not None:
        raise ArgumentError("find_lr: give factor or steps, not both.")
    ratio = (end / start) ** (1 / (steps - 1)) if steps else FACTOR if factor is None else factor
    count = steps or 1 + math.floor(math.log(end / start) / math.log(ratio) * (1 + 1e-12))
    return [start * ratio**i for i in range(count)]


def _takes_lr(make: Any) -> bool:
    """Whether what makes the optimizer can be given a rate."""
    if isinstance(make, Optimizer):
        return False
    try:
        taken = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return False
    return "lr" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())


class _Finder(Callback):
    """Sets the rate of each step, and looks at the loss before it."""

    order: ClassVar[int] = -1000

    def __init__(self, rates: Sequence[float], stop_at: float) -> None:
        self.rates, self.stop_at = rates, stop_at
        self.losses: list[float] = []
        self.ended = ""
        self.skipped = 0
        self.best = math.inf
        """The lowest mean of so many losses in a row, those of rates within a factor of SPAN."""
        self.recent = 1 + int(math.log(SPAN) / math.log(rates[1] / rates[0])) if len(rates) > 1 else 1

    def before_fit(self, learner: Learner) -> None:
        if hasattr(learner.opt, "_schedule"):
            learner.opt._schedule = {}
        first = float(learner.opt.param_groups[0]["lr"])
        self.ratios = [float(group["lr"]) / first if first else 1.0 for group in learner.opt.param_groups]

    def after_loss(self, learner: Learner) -> None:
        part = learner.batch.loss.detach() * learner.batch.weight
        self.loss = self.loss + part if learner.loop.pending_batches else part

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        [total] = learner.engine.all_reduce_sum([float(self.loss)])
        loss, lr = total / learner.engine.world_size, self.rates[len(self.losses)]
        self._look(loss)
        for group, ratio in zip(learner.opt.param_groups, self.ratios, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr * ratio)
            else:
                group["lr"] = lr * ratio
        proceed()
        self.skipped = 0 if learner.batch.stepped else self.skipped + 1
        if learner.batch.stepped:
            self.losses.append(loss)
        if len(self.losses) == len(self.rates):
            self._end("that was the last rate")
        if self.skipped == PATIENCE:
            self._end(f"{PATIENCE} steps in a row were skipped because their gradients were not finite")

    def _look(self, loss: float) -> None:
        """End the test where the loss is not finite or has grown too much, for more than the batch at hand."""
        if not math.isfinite(loss):
            self._end(f"the loss is {loss}")
        recent = [*self.losses, loss][-self.recent :]
        mean = math.fsum(recent) / len(recent)
        self.best = min(self.best, mean)
        if mean > self.best + (self.stop_at - 1) * abs(self.best):
            self._end(f"the loss, {mean:.4g}, is more than {self.stop_at:g} times the lowest, {self.best:.4g}")

    def _end(self, reason: str) -> None:
        self.ended = reason
        raise CancelFit


# ---- putting everything back ----------------------------------------------------------------------------------------


@contextmanager
def unchanged(learner: Learner) -> Iterator[None]:
    """Whatever the block trains, learner, model and optimizer are as before after it, in whatever way it ends."""
    if learner._module is None:  # a fit would; buffers that move to a device are others from there on
        learner._module = learner.engine.setup(learner.model)
    with ExitStack() as stack:
        stack.enter_context(side_pass(learner.train))
        stack.enter_context(_counters_kept(learner))
        stack.enter_context(_scale_kept(learner))
        stack.enter_context(_model_kept(learner.model, sharded=learner.engine.sharded))
        if isinstance(learner._optimizer, Optimizer):
            stack.enter_context(_optimizer_kept(learner._optimizer))
        yield


@contextmanager
def _counters_kept(learner: Learner) -> Iterator[None]:
    kept = dict(vars(learner))
    try:
        yield
    finally:
        vars(learner).clear()
        vars(learner).update(kept)


@contextmanager
def _scale_kept(learner: Learner) -> Iterator[None]:
    engine = learner.engine
    kept = None if engine.scaler is None else engine.scaler.state_dict()
    try:
        yield
    finally:
        if engine.scaler is not None and kept is not None:
            engine.reset()
            engine.scaler.load_state_dict(kept)


@contextmanager
def _model_kept(model: nn.Module, sharded: bool) -> Iterator[None]:
    params = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in model.parameters()]
    modules = [(m, m.training, dict(module_buffers(m))) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    for p in model.parameters():
        p.grad = None
    try:
        yield
    finally:
        if sharded:
            reshard(model)
        with torch.no_grad():
            for module, training, own in modules:
                module.training = training
                module_buffers(module).update(own)
            for old, value in buffers:
                old.copy_(value)
            for p, value, grad, trained in params:
                p.copy_(value)
                p.grad = grad
                p.requires_grad_(trained)


@contextmanager
def _optimizer_kept(optimizer: Any) -> Iterator[None]:
    memo: dict[int, Any] = {}  # what is in both is copied once
    kept = copy.deepcopy(optimizer.state_dict(), memo)
    state = {key: copy.deepcopy(own, memo) for key, own in optimizer.state.items()}
    schedule = getattr(optimizer, "_schedule", None)
    try:
        yield
    finally:
        if schedule is not None:
            optimizer._schedule = schedule
        optimizer.load_state_dict(kept)  # which also drops what the optimizer has looked up about its state
        optimizer.state.update(state)  # as it was: torch casts what it loads to the weights' dtype


# ---- drawing --------------------------------------------------------------------------------------------------------


def _window(losses: Sequence[float]) -> tuple[float, float]:
    """The losses worth drawing: from the lowest to as much above the first one as that lies above the lowest."""
    low, first, high = min(losses), losses[0], max(losses)
    return low, min(high, first + (first - low)) if first > low else high


def _drawing(curve: LRCurve, width: int, height: int) -> list[str]:
    losses = curve.smoothed
    if len(losses) < 2:
        return []
    low, high = _window(losses)
    places = np.linspace(math.log(curve.lrs[0]), math.log(curve.lrs[-1]), width)
    heights = np.interp(places, np.log(curve.lrs), losses)
    rows = np.round((heights - low) / ((high - low) or 1.0) * (height - 1))
    lines = []
    for level in range(height - 1, -1, -1):
        label = f"{low + (high - low) * level / (height - 1):.4g}" if level in (0, height - 1) else ""
        lines.append(f"{label:>9} |" + "".join("*" if row == level else " " for row in rows).rstrip())
    left, right = f"{curve.lrs[0]:.2g}", f"{curve.lrs[-1]:.2g}"
    return [*lines, f"{'':>9} +{'-' * width}", f"{'':>11}{left}{right:>{width - len(left)}}"]
