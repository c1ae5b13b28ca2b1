"""Learning-rate range test: a short run with an increasing rate; the run's effects are undone afterwards."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot._torch_private import module_buffers
from dashpot.constraints import POSITIVE, Interval, Optional, check, shown
from dashpot.errors import ArgumentError, RunError
from dashpot.figures import color, label_lines, new_figure
from dashpot.training.callback import Callback, CancelFit
from dashpot.training.inference import check_idle
from dashpot.training.plain_optimizer import accepts_lr, check_savable
from dashpot.training.side_pass import check_initialized, release_output, reshard, restored_attributes, side_pass
from dashpot.utils.smoothing import smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from dashpot.training.learner import Learner

FACTOR = 1.3
SPAN = 3.0
"""Ratio of the largest to the smallest rate in a smoothing window."""
PATIENCE = 32
"""Number of consecutive skipped steps after which the test ends."""
STEPS = Optional(Interval(2, math.inf, "left", integer=True))


class Suggestion(NamedTuple):
    """Learning rates suggested by a range test; both are None if the loss never decreases."""

    steepest: float | None
    minimum: float | None


@dataclass(frozen=True)
class LRCurve:
    """Result of a learning-rate range test.

    Attributes:
        lrs: Learning rates of the steps, in increasing order.
        losses: Loss before the step with each rate. All losses are finite; a final NaN or infinity is excluded.
        ended: Reason why the test ended.

    >>> curve = LRCurve([1e-4, 1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.9, 1.0, 0.5, 4.0], "by hand")
    >>> curve.suggest()
    Suggestion(steepest=0.01, minimum=0.01)
    """

    lrs: list[float]
    losses: list[float]
    ended: str

    @property
    def smoothed(self) -> list[float]:
        """Centered moving average of the losses over rates within a factor of 3, with shorter windows at the ends."""
        if len(self.lrs) < 2:
            return list(self.losses)
        step = math.log(self.lrs[-1] / self.lrs[0]) / (len(self.lrs) - 1)
        return smooth(self.losses, 1 + 2 * int(math.log(SPAN) / step / 2)).tolist()

    def suggest(self) -> Suggestion:
        """Suggest two learning rates, based on the smoothed loss L at rates up to m, the rate with the lowest L.

            steepest: argmin of dL / d(log lr); at an inner point, the derivative is that of the parabola through the
                      point and its neighbors; at an end point, it is the difference quotient,
            minimum:  m / 10.

        For many models, the two rates agree within a small factor. `steepest` is more conservative if the loss
        decreases over a wide range of rates. Both rates are None if L is lowest at the first rate.

        Source: L. Smith, Cyclical learning rates for training neural networks, 2017 (the range test).
        """
        losses = np.asarray(self.smoothed)
        lowest = int(losses.argmin()) if len(losses) else 0
        if lowest == 0:
            return Suggestion(None, None)
        slopes = np.gradient(losses, np.log(self.lrs))[: lowest + 1]
        return Suggestion(self.lrs[int(slopes.argmin())], self.lrs[lowest] / 10)

    def plot(self, ax: Axes | None = None) -> Figure:
        """Return a matplotlib figure of the loss against the learning rate, with the suggestions marked.

        Args:
            ax: Axes to draw on. Default: a new figure.

        Raises:
            ArgumentError: If matplotlib is not installed.
        """
        figure, [panel] = new_figure("LRCurve.plot", ax=ax)
        smoothed = self.smoothed
        panel.set_xscale("log")
        panel.plot(self.lrs, self.losses, color=color(0), alpha=0.35, linewidth=1, label="loss")
        panel.plot(self.lrs, smoothed, color=color(0), linewidth=2.2, label="smoothed")
        for index, (name, lr) in enumerate(self.suggest()._asdict().items(), 1):
            if lr is not None:
                height = float(np.interp(math.log(lr), np.log(self.lrs), smoothed))
                panel.plot([lr], [height], "os"[index - 1], color=color(index), label=f"{_LABELS[name]}: {lr:.2g}")
        low, high = _window(smoothed)
        margin = 0.05 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)
        panel.set_xlabel("learning rate")
        panel.set_ylabel("loss")
        label_lines(panel)
        return figure

    def text(self, width: int = 64, height: int = 12) -> str:
        """Return the smoothed curve as a text plot, followed by the suggestions."""
        return "\n".join([*_text_plot(self, width, height), "", *self._summary()])

    def __str__(self) -> str:
        return self.text()

    def sentences(self) -> str:
        """Return the suggestions and the reason for the end of the test in sentences."""
        steepest, minimum = self.suggest()
        *_, end = self._summary()
        if steepest is None or minimum is None:
            return " ".join(self._summary())
        return (
            f"The loss decreases fastest at the rate {steepest:.2g}, and a tenth of the rate with the lowest loss is "
            f"{minimum:.2g}. {end}"
        )

    def _summary(self) -> list[str]:
        suggestions = self.suggest()._asdict().items()
        last = f"{self.lrs[-1]:.3g}" if self.lrs else "the first rate"
        lines = [f"{_LABELS[name]:<24} {lr:.2g}" for name, lr in suggestions if lr is not None]
        if not lines:
            lines = ["The loss did not decrease at any rate: start lower, or from other weights."]
        return [*lines, f"The test ended at {last}: {self.ended}."]


_LABELS = {"steepest": "steepest descent", "minimum": "a tenth of the minimum's"}


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
    """Run a learning-rate range test: train with a rate that grows by `factor` per step, then restore the learner.

    The test ends when the rate reaches `end`, when the loss is not finite, or when the mean loss over the most recent
    rates (within a factor of 3 of the current rate) exceeds `stop_at` times b, the lowest such mean so far (or,
    if b < 0, exceeds b + (stop_at - 1) |b|). Because of the mean, a single outlier batch does not end the test.
    With several parameter groups, the curve contains the rates of the first group, and the rates of the other groups
    keep their ratio to the rates of the first group. A schedule of the optimizer is disabled. A step that is skipped,
    for example by the fp16 loss scaler, is repeated at the same rate. The data are repeated as needed. No evaluation is
    run.

    Afterwards, even after an error or Ctrl-C, the weights, buffers, gradients, the state of an optimizer instance, the
    loss scale, the random generators, the position in the data, the modules' modes and the learner's attributes are
    restored. The model stays on the engine's device. The learner's own callbacks are not called.

    Args:
        learner: Learner, set up as for training.
        start: First learning rate, > 0.
        end: Largest learning rate, > `start`.
        factor: Ratio of successive rates, > 1. Default: 1.3.
        steps: Number of rates from `start` to `end`, an integer >= 2, as an alternative to `factor`.
        stop_at: Ratio of the current mean loss to the lowest mean loss at which the test ends, > 1.
        callbacks: Callbacks for the test, such as `Accumulate` or `ClipGradients`.

    Raises:
        ArgumentError: If an argument is out of range.
        RunError: If no step could be taken, or a fit of the learner is running.

    Source: The loop of the SlowAI notebooks; L. Smith, Cyclical learning rates for training neural networks, 2017.

    Example:
        >>> from dashpot import AdamW, tasks
        >>> from dashpot.training import Engine, Learner
        >>> learner = Learner.of(tasks.get("digits").build(0), AdamW, engine=Engine("cpu"))
        >>> curve = find_lr(learner)
        >>> curve.lrs[0], 1e-4 < curve.suggest().steepest < 1e-1
        (1e-05, True)
    """
    check_idle(learner, "find_lr")
    if isinstance(learner._optimizer, Mapping):
        raise ArgumentError(f"find_lr: the learner must have one optimizer, got {len(learner._optimizer)}.")
    rates = _rates(start, end, factor, steps)
    check("find_lr", "stop_at", stop_at, Interval(1, math.inf))
    finder = _Finder(rates, float(stop_at))
    check_initialized(learner.model, "find_lr")
    with _restored(learner):
        learner._callbacks = []
        takes_lr = not isinstance(learner._optimizer, Optimizer) and accepts_lr(learner._optimizer)
        lr = learner._lr if learner._lr is not None or not takes_lr else start
        learner.fit(steps=len(rates) * PATIENCE, lr=lr, callbacks=[finder, *callbacks], evaluate=False)
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
        raise ArgumentError(f"find_lr: factor must be None if steps is given, got {shown(factor)}.")
    ratio = (end / start) ** (1 / (steps - 1)) if steps else FACTOR if factor is None else factor
    count = steps or 1 + math.floor(math.log(end / start) / math.log(ratio) * (1 + 1e-12))
    return [start * ratio**i for i in range(count)]


class _Finder(Callback):
    """Set the learning rate of each step, and record the loss before the step."""

    order: ClassVar[int] = -1000

    def __init__(self, rates: Sequence[float], stop_at: float) -> None:
        self.rates, self.stop_at = rates, stop_at
        self.losses: list[float] = []
        self.ended = ""
        self.skipped = 0
        self.best = math.inf
        """The lowest mean of `window` consecutive losses."""
        self.window = 1 + int(math.log(SPAN) / math.log(rates[1] / rates[0])) if len(rates) > 1 else 1

    def before_fit(self, learner: Learner) -> None:
        if hasattr(learner.opt, "_schedule"):
            learner.opt._schedule = {}
        first = float(learner.opt.param_groups[0]["lr"])
        self.ratios = [float(group["lr"]) / first if first else 1.0 for group in learner.opt.param_groups]

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        [loss] = learner.engine.all_reduce_sum([float(learner.loop.step_loss.mean)])
        lr = self.rates[len(self.losses)]
        self._check_loss(loss)
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
            self._end("last rate reached")
        if self.skipped == PATIENCE:
            self._end(f"{PATIENCE} consecutive steps were skipped for non-finite gradients")

    def _check_loss(self, loss: float) -> None:
        """End the test if the loss is not finite, or if the mean loss over the recent rates has grown too much."""
        if not math.isfinite(loss):
            self._end(f"loss is {loss}")
        recent = [*self.losses, loss][-self.window :]
        mean = math.fsum(recent) / len(recent)
        self.best = min(self.best, mean)
        if mean > self.best + (self.stop_at - 1) * abs(self.best):
            self._end(f"mean loss {mean:.4g} exceeds {self.stop_at:g} times the lowest, {self.best:.4g}")

    def _end(self, reason: str) -> None:
        self.ended = reason
        raise CancelFit


# ---- restoring ------------------------------------------------------------------------------------------------------


@contextmanager
def _restored(learner: Learner) -> Iterator[None]:
    """Restore learner, model and optimizer on exit."""
    learner._set_up_model()  # before the state is saved, because moving the model replaces buffers
    release_output(learner)
    engine, optimizer = learner.engine, learner._optimizer
    loss_scale = None if engine.scaler is None else engine.scaler.state_dict()
    restored_optimizer = _restored_optimizer(optimizer) if isinstance(optimizer, Optimizer) else nullcontext()
    try:
        restored = _restored_model(learner.model, engine.sharded)
        with restored_attributes(learner), side_pass(learner.train), restored, restored_optimizer:
            yield
    finally:
        if engine.scaler is not None and loss_scale is not None:
            engine.reset()
            engine.scaler.load_state_dict(loss_scale)


@contextmanager
def _restored_model(model: nn.Module, sharded: bool) -> Iterator[None]:
    params = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in model.parameters()]
    modules = [(m, m.training, dict(module_buffers(m))) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    # Plain optimizers may keep their state in attributes of the parameters.
    attributes = [(p, {k: (v, _clone(v)) for k, v in vars(p).items()}) for p in model.parameters()]
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
            for p, own in attributes:
                for name in vars(p).keys() - own:
                    delattr(p, name)
                for name, (held, value) in own.items():
                    setattr(p, name, held.copy_(value) if isinstance(held, Tensor) else held)
            for p, value, grad, requires_grad in params:
                p.copy_(value)
                p.grad = grad
                p.requires_grad_(requires_grad)


def _clone(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else None


@contextmanager
def _restored_optimizer(optimizer: Any) -> Iterator[None]:
    check_savable(optimizer, "find_lr")
    memo: dict[int, Any] = {}  # copies tensors that are in both `saved` and `state` only once
    saved = copy.deepcopy(optimizer.state_dict(), memo)
    state = {key: copy.deepcopy(own, memo) for key, own in optimizer.state.items()}
    schedule = getattr(optimizer, "_schedule", None)
    try:
        yield
    finally:
        if schedule is not None:
            optimizer._schedule = schedule
        optimizer.load_state_dict(saved)  # also resets values that the optimizer has derived from its state
        optimizer.state.update(state)  # restores dtypes: load_state_dict casts state to the dtype of the weights


# ---- text plot ------------------------------------------------------------------------------------------------------


def _window(losses: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest plotted loss; very high losses are cut off relative to the first loss."""
    low, first, high = min(losses), losses[0], max(losses)
    return low, min(high, first + (first - low)) if first > low else high


def _text_plot(curve: LRCurve, width: int, height: int) -> list[str]:
    losses = curve.smoothed
    if len(losses) < 2:
        return []
    low, high = _window(losses)
    positions = np.linspace(math.log(curve.lrs[0]), math.log(curve.lrs[-1]), width)
    heights = np.interp(positions, np.log(curve.lrs), losses)
    rows = np.round((heights - low) / ((high - low) or 1.0) * (height - 1))
    lines = []
    for level in range(height - 1, -1, -1):
        label = f"{low + (high - low) * level / (height - 1):.4g}" if level in (0, height - 1) else ""
        lines.append(f"{label:>9} |" + "".join("*" if row == level else " " for row in rows).rstrip())
    left, right = f"{curve.lrs[0]:.2g}", f"{curve.lrs[-1]:.2g}"
    return [*lines, f"{'':>9} +{'-' * width}", f"{'':>11}{left}{right:>{width - len(left)}}"]
