"""Callback for one of several optimizers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dashpot.errors import ArgumentError
from dashpot.training.callback import ACTIONS, EVENTS, Callback

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

_WITHIN_TURN = ("after_predict", "after_loss", "after_backward")
"""Events that occur once for each optimizer."""


class ForOptimizer(Callback):
    """Bind a callback to one of several optimizers, such as a schedule or gradient clipping.

    The callback is notified only of the actions and events of the turn of its optimizer, and of `after_step` only if
    this optimizer has stepped. In all its methods, `learner.opt` is this optimizer.

    Args:
        name: Name of the optimizer.
        callback: Callback to bind.

    Raises:
        ArgumentError: If `callback` is not a callback. `before_fit` also raises it if there is no such optimizer.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dashpot.training import Engine, ForOptimizer, Learner, Recorder
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.slope, self.offset = nn.Linear(1, 1, bias=False), nn.Linear(1, 1)
        ...     def forward(self, x, part):
        ...         return self.slope(x) + self.offset(0 * x)
        >>> losses = {"slope": nn.functional.mse_loss, "offset": nn.functional.l1_loss}
        >>> learner = Learner(Model(), [(torch.ones(2, 1), torch.zeros(2, 1))], loss=losses, engine=Engine("cpu"),
        ...                   optimizer=dict.fromkeys(losses, torch.optim.SGD), lr={"slope": 0.1, "offset": 0.2})
        >>> recorder = Recorder("lr")
        >>> learner.fit(1, callbacks=[ForOptimizer("offset", recorder)])
        >>> recorder.values["lr"]
        [0.2]
    """

    def __init__(self, name: str, callback: Callback) -> None:
        if not isinstance(callback, Callback) or isinstance(callback, ForOptimizer):
            raise ArgumentError(f"ForOptimizer: callback must be a callback, got {type(callback).__name__}.")
        self.name, self.callback = name, callback
        self.order, self.essential = callback.order, callback.essential  # pyright: ignore[reportAttributeAccessIssue]
        self.state_name = f"{callback.state_name or type(callback).__name__}[{name}]"  # pyright: ignore[reportAttributeAccessIssue]
        self._stepped = False
        for event in EVENTS:
            if event not in ("before_fit", "before_batch") and hasattr(callback, event):
                setattr(self, event, partial(self._on_event, event))
        for action in ACTIONS:
            if action != "step" and hasattr(callback, action):
                setattr(self, action, partial(self._on_action, action))

    @property
    def in_model(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.callback.in_model

    def before_fit(self, learner: Learner) -> None:
        optimizers = learner.loop.optimizers
        if self.name not in optimizers:
            if not optimizers:
                raise ArgumentError(
                    f"ForOptimizer: the learner must have several optimizers, got one; pass the "
                    f"{type(self.callback).__name__} itself."
                )
            raise ArgumentError(f"ForOptimizer: name must be one of {', '.join(optimizers)}, got {self.name!r}.")
        self._stepped = False
        if hasattr(self.callback, "before_fit"):
            self._on_event("before_fit", learner)

    def before_batch(self, learner: Learner) -> None:
        if learner.training:  # `learner.evaluate` may be called before `after_step`
            self._stepped = False
        if hasattr(self.callback, "before_batch"):
            self._on_event("before_batch", learner)

    def step(self, learner: Learner, proceed: Callable[[], None]) -> None:
        if learner.loop.part != self.name:
            proceed()
            return
        try:
            if hasattr(self.callback, "step"):
                self.callback.step(learner, proceed)  # pyright: ignore[reportAttributeAccessIssue]
            else:
                proceed()
        finally:
            self._stepped = learner.batch.stepped

    def _on_action(self, action: str, learner: Learner, proceed: Callable[[], None]) -> None:
        if learner.loop.part == self.name:
            getattr(self.callback, action)(learner, proceed)
        else:
            proceed()

    def _on_event(self, event: str, learner: Learner) -> None:
        loop = learner.loop
        if self.name not in loop.optimizers:  # in cleanup_fit, after an error in before_fit
            return
        own_turn = loop.part in (self.name, None) if event not in _WITHIN_TURN else loop.part == self.name
        if not own_turn or (event == "after_step" and not self._stepped):
            return
        current, learner.opt = learner.opt, loop.optimizers[self.name]
        try:
            getattr(self.callback, event)(learner)
        finally:
            learner.opt = current

    def settings(self) -> dict[str, Any]:
        return self.callback.settings()

    def state_dict(self) -> dict[str, Any]:
        return self.callback.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.callback.load_state_dict(state)
