"""What a callback is, and how the learner reaches them: events that are told, and actions that pass through.

An *event* (`before_batch`, `after_loss`, ...) is told to every callback that has a method of this name, in ascending
`order`, in the order of the list where that is equal. An *action* (`predict`, `get_loss`, `backward`, `step`,
`zero_grad`) is done by the learner, but passes through every callback that has a method of this name first: the method
gets the learner and a function `proceed` that does the rest, and may call it, or do something in its place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, TypeVar

from dashpot.errors import ArgumentError

__all__ = ["ACTIONS", "EVENTS", "Callback", "CallbackList", "CancelBatch", "CancelEpoch", "CancelFit", "only"]

ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")
EVENTS = (
    *(f"{moment}_{scope}" for scope in ("fit", "epoch", "batch") for moment in ("before", "after", "cleanup")),
    *("after_predict", "after_loss", "after_backward", "after_step"),
)


class CancelBatch(Exception):  # noqa: N818 - a wish, not an error
    """Leave the rest of this batch out; `after_batch` is not told, `cleanup_batch` is. The last one of several whose
    gradients make a step, left out before its own gradient, has the step taken with those of the others."""


class CancelEpoch(Exception):  # noqa: N818
    """Leave the rest of this phase of the epoch out; `after_epoch` is not told, `cleanup_epoch` is."""


class CancelFit(Exception):  # noqa: N818
    """End the fit; `after_fit` is not told, `cleanup_fit` is."""


ERROR = 3
"""The width of an error, which ends more than any cancellation."""


def _width(kind: type[BaseException] | None) -> int:
    """How much an exception ends: 0 for a batch, 1 for a phase, 2 for the fit, 3 for an error; -1 for none."""
    if kind is None:
        return -1
    kinds = (CancelBatch, CancelEpoch, CancelFit)
    return next((width for width, wish in enumerate(kinds) if issubclass(kind, wish)), ERROR)


def listed(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return the callbacks as a list.

    Raises:
        ArgumentError: they are given in another way, such as a single one.
    """
    if not isinstance(callbacks, Iterable):
        raise ArgumentError(f"Learner: callbacks must be a list of callbacks, got {callbacks!r}.")
    return list(callbacks)


Hook = TypeVar("Hook", bound=Callable[..., Any])


def only(hook: Hook) -> Hook:
    """Mark a callback's method: it runs alone, without the other callbacks.

    >>> class Quiet(Callback):
    ...     @only
    ...     def after_epoch(self, learner): ...
    """
    hook.only = True  # pyright: ignore[reportFunctionMemberAccess]
    return hook


class Callback:
    """Base of callbacks: define a method with the name of any event, `method(self, learner)`, or of any action,
    `method(self, learner, proceed)`.

    `order` places it among the others, small first. What a run that resumes needs goes through `state_dict` and
    `load_state_dict`: plain data and tensors. A callback may be given to the learner, or to a single `fit`. One that
    only looks on has `essential` False: a run may resume with or without it. Of the others `settings` tells what has to
    be the same there. One that puts something into the model in place of the optimizer's weights says so in `in_model`:
    no state is taken as long as that is not None. Its state is stored under the class name, or `state_name`.

    Raises `ArgumentError` when a class defines a method that looks like an event and is none.

    >>> class Momentum(Callback):
    ...     def zero_grad(self, learner, proceed):          # keeps 0.85 of the gradient instead of clearing it
    ...         for p in learner.model.parameters():
    ...             p.grad *= 0.85
    """

    order: ClassVar[int] = 0
    essential: ClassVar[bool] = True
    in_model: str | None = None
    state_name: ClassVar[str | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in vars(cls):
            if name.startswith(("before_", "after_", "cleanup_")) and name not in EVENTS:
                [*near] = difflib.get_close_matches(name, EVENTS, n=1)
                hint = f": did you mean {near[0]!r}?" if near else "."
                raise ArgumentError(f"{cls.__name__}: {name!r} is no event{hint} Events are {', '.join(EVENTS)}.")

    def settings(self) -> dict[str, Any]:
        """What a fit that resumes has to be given alike, by name: numbers and texts; differences are listed."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; called after `before_fit`."""


class CallbackList:
    """The callbacks of one fit in their order.

    Raises `ArgumentError` for something that is no `Callback`, for one that is there twice, and for one with something
    else than a method under the name of an event or an action.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        given = list(callbacks)
        for callback in given:
            if not isinstance(callback, Callback):
                raise ArgumentError(
                    f"Learner: callbacks must be instances of dashpot.training.Callback, got {callback!r}."
                )
        for number, callback in enumerate(given):
            if any(callback is other for other in given[:number]):
                raise ArgumentError(
                    f"Learner: the callback {type(callback).__name__} is given twice, the same instance."
                )
        self.ordered: Sequence[Callback] = sorted(given, key=lambda callback: callback.order)
        self._hooks = {name: self._of(name) for name in (*EVENTS, *ACTIONS)}
        self._notified = 0  # of the present event's hooks, the one at work included

    def _of(self, name: str) -> list[Callable[..., Any]]:
        owners = [callback for callback in self.ordered if hasattr(callback, name)]
        hooks = [getattr(callback, name) for callback in owners]
        for owner, hook in zip(owners, hooks, strict=True):
            if not callable(hook):
                kind = "an action" if name in ACTIONS else "an event"
                raise ArgumentError(
                    f"{type(owner).__name__}: {name!r} names {kind} and must be a method, got an attribute {hook!r}."
                )
        return [hook for hook in hooks if getattr(hook, "only", False)][:1] or hooks

    def notify(self, event: str, learner: Any) -> None:
        """Tell an event to all."""
        for number, hook in enumerate(self._hooks[event], 1):
            self._notified = number
            hook(learner)

    def not_notified(self, event: str) -> list[Callback]:
        """Those that have not been told the event that is being told."""
        rest = self._hooks[event][self._notified :]
        return [callback for callback in self.ordered if getattr(callback, event, None) in rest]

    def notify_cleanup(self, event: str, learner: Any, within: type[Exception]) -> None:
        """Tell a cleanup event to all, also where one of them fails; the first failure is raised after the last.

        A cancellation among them is heard if it is of more than what ends here, which `within` cancels, and of more
        than what is cancelled already; an error that goes on from there outweighs it.
        """
        failures: list[BaseException] = []
        for hook in self._hooks[event]:
            try:
                hook(learner)
            except BaseException as error:
                failures.append(error)
        width = max(_width(within), _width(learner.unwinding))
        failures = [error for error in failures if _width(type(error)) > width or _width(type(error)) == ERROR]
        if failures:
            raise max(failures, key=lambda error: _width(type(error)))

    def wrap_action(self, action: str, learner: Any, own: Callable[[], Any]) -> Callable[[], Any]:
        """The action as it passes through the callbacks, the first of them outermost."""
        chain = own
        for hook in reversed(self._hooks[action]):
            chain = partial(hook, learner, chain)
        return chain

    def named(self) -> dict[str, Callback]:
        """Each under a name that tells it in a checkpoint: its class, and a number where there are several."""
        names: dict[str, Callback] = {}
        for callback in self.ordered:
            kind = callback.state_name or type(callback).__name__
            same = sum((other.state_name or type(other).__name__) == kind for other in names.values())
            names[kind if same == 0 else f"{kind}#{same + 1}"] = callback
        return names
