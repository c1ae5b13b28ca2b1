"""Callbacks of the learner, which are notified of events and may wrap actions.

For an *event* (`before_batch`, `after_loss`, ...), the learner calls the method of the same name on each callback that
defines it, in ascending `order`; callbacks of equal `order` are called in the order of the list. An *action*
(`predict`, `get_loss`, `backward`, `step`, `zero_grad`) is performed by the learner. A callback that defines a method
of the same name wraps the action: the method receives the learner and a function `proceed`, which performs the rest of
the action. The method may call `proceed` or replace the action.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.utils.schema import PLAIN, Rule, require

ACTIONS = ("predict", "get_loss", "backward", "step", "zero_grad")
EVENTS = (
    *(f"{moment}_{scope}" for scope in ("fit", "epoch", "batch") for moment in ("before", "after", "cleanup")),
    *("after_predict", "after_loss", "after_backward", "after_step"),
)
_CLEANUP_OF = {f"before_{scope}": f"cleanup_{scope}" for scope in ("fit", "epoch", "batch")}


class CancelBatch(Exception):  # noqa: N818 - control flow, not an error
    """Exception that skips the rest of the batch, including `after_batch`; `cleanup_batch` is still called.

    If the last micro-batch of a step is cancelled before its backward pass, the optimizer steps with the gradients of
    the other micro-batches.
    """


class CancelEpoch(Exception):  # noqa: N818
    """Exception that skips the rest of the phase, including `after_epoch`; `cleanup_epoch` is still called."""


class CancelFit(Exception):  # noqa: N818
    """Exception that skips the rest of the fit, including `after_fit`; `cleanup_fit` is still called."""


ERROR = 3
"""Scope level of an error, which is wider than that of any cancellation."""


def _scope_level(kind: type[BaseException] | None) -> int:
    """Return the level of the scope that an exception ends: 0 (batch), 1 (phase), 2 (fit) or 3 (error); -1 for None."""
    if kind is None:
        return -1
    kinds = (CancelBatch, CancelEpoch, CancelFit)
    return next((level for level, cancel in enumerate(kinds) if issubclass(kind, cancel)), ERROR)


def as_list(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return the callbacks as a list.

    Raises:
        ArgumentError: If `callbacks` is not iterable, for example because it is a single callback.
    """
    if not isinstance(callbacks, Iterable):
        raise ArgumentError(f"Learner: callbacks must be a list of callbacks, got {shown(callbacks)}.")
    return list(callbacks)


class Callback:
    """Base class of callbacks.

    Subclasses define a method `method(self, learner)` for an event or `method(self, learner, proceed)` for an action. A
    callback can be passed to the learner or to a single fit. A class whose method name has the prefix of an event
    (`before_`, `after_` or `cleanup_`) but is not the name of an event raises `ArgumentError`.

    Attributes:
        order: Sort key of the callback; callbacks with a lower `order` are called first.
        essential: Whether a fit can only be resumed with this callback. False for observers such as loggers, which can
            be added or removed on resume.
        state_name: Name of the callback in checkpoints. Default: the name of the callback's class.
        state_schema: Rule (see `dashpot.utils.schema`) of the state that `state_dict` returns.
        in_model: Description of the values that the callback has put into the model in place of the optimizer's
            weights, or None. No checkpoint can be taken unless `in_model` is None.

    >>> class Momentum(Callback):
    ...     def zero_grad(self, learner, proceed):          # keeps 0.85 of the gradient instead of clearing it
    ...         for p in learner.model.parameters():
    ...             p.grad *= 0.85
    """

    order: ClassVar[int] = 0
    essential: ClassVar[bool] = True
    state_name: ClassVar[str | None] = None
    state_schema: ClassVar[Rule] = PLAIN
    in_model: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in vars(cls):
            if name.startswith(("before_", "after_", "cleanup_")) and name not in EVENTS:
                [*near] = difflib.get_close_matches(name, EVENTS, n=1)
                hint = f": did you mean {near[0]!r}?" if near else "."
                raise ArgumentError(f"{cls.__name__}: {name!r} is not an event{hint} Events are {', '.join(EVENTS)}.")

    def settings(self) -> dict[str, Any]:
        """Return the settings that a resumed fit must not change, as a dict from names to numbers or strings."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`, as plain data and tensors."""
        return {}

    def check_state(self, state: Mapping[str, Any], path: str) -> None:
        """Check a saved state before any part of the learner is restored; by default, against `state_schema`.

        Args:
            state: State returned by `state_dict` of an earlier fit.
            path: Path of the state in messages.

        Raises:
            SchemaError: If `load_state_dict` would reject the state.
        """
        require(self.state_schema, state, path)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state returned by `state_dict`; a resumed fit calls this method after `before_fit`.

        If this method raises an exception, the whole restore is undone. It must not change files, because the state of
        another callback may be rejected afterwards.
        """


class CallbackList:
    """Callbacks of one fit, sorted by `order`.

    Raises:
        ArgumentError: If an item is not a `Callback`, appears twice, or has a non-method attribute with the name of
            an event or an action.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        given = list(callbacks)
        for index, callback in enumerate(given):
            if not isinstance(callback, Callback):
                raise ArgumentError(
                    f"Learner: callbacks must be instances of dashpot.training.Callback, got {shown(callback)}."
                )
            if any(callback is other for other in given[:index]):
                raise ArgumentError(
                    f"Learner: callbacks must be distinct instances, got the same {type(callback).__name__} twice."
                )
        self._ordered = sorted(given, key=lambda callback: callback.order)
        self._hooks = {name: self._hooks_of(name) for name in (*EVENTS, *ACTIONS)}
        self._positions = {
            name: [index for index, callback in enumerate(self._ordered) if hasattr(callback, name)] for name in EVENTS
        }
        self._notified = 0  # number of hooks of the current event called so far, including the running one
        self._failed_before: dict[
            str | None, int
        ] = {}  # by cleanup event, the callback that raised in the before event

    def __iter__(self) -> Iterator[Callback]:
        return iter(self._ordered)

    def _hooks_of(self, name: str) -> list[Callable[..., Any]]:
        owners = [callback for callback in self._ordered if hasattr(callback, name)]
        for owner in owners:
            if not callable(hook := getattr(owner, name)):
                kind = "action" if name in ACTIONS else "event"
                raise ArgumentError(f"{type(owner).__name__}: {kind} {name!r} must be a method, got {shown(hook)}.")
        return [getattr(owner, name) for owner in owners]

    def notify(self, event: str, learner: Any) -> None:
        """Call the hook of each callback that defines one for `event`."""
        cleanup = _CLEANUP_OF.get(event)
        self._failed_before.pop(cleanup, None)
        try:
            for number, hook in enumerate(self._hooks[event], 1):
                self._notified = number
                hook(learner)
        except BaseException:
            if cleanup is not None:
                self._failed_before[cleanup] = self._positions[event][self._notified - 1]
            raise

    def pending(self, event: str) -> list[Callback]:
        """Return the callbacks that have not been notified yet of `event`, which must be the event in progress."""
        hooks = self._hooks[event][self._notified :]
        return [callback for callback in self._ordered if getattr(callback, event, None) in hooks]

    def notify_cleanup(self, event: str, learner: Any, within: type[Exception]) -> None:
        """Call the hooks of a cleanup event, even if some raise, and then raise the exception of the widest scope.

        If a callback has raised an exception in the before event of the scope, the callbacks after it have not begun
        and are not called. `CancelEpoch` and `CancelBatch` end their own scopes regularly, for all callbacks.

        A cancellation is raised only if its scope is wider than the ending scope, which `within` cancels, and wider
        than the scope of an exception that is already propagating.
        """
        raised: list[BaseException] = []
        last = self._failed_before.pop(event, len(self._ordered))
        if learner.loop.unwinding is None and event != "cleanup_fit":
            last = len(self._ordered)
        for position, hook in zip(self._positions[event], self._hooks[event], strict=True):
            if position > last:
                break
            try:
                hook(learner)
            except BaseException as error:
                raised.append(error)
        ended = max(_scope_level(within), _scope_level(learner.loop.unwinding))
        raised = [error for error in raised if _scope_level(type(error)) > ended or _scope_level(type(error)) == ERROR]
        if raised:
            raise max(raised, key=lambda error: _scope_level(type(error)))

    def wrap_action(self, action: str, learner: Any, perform: Callable[[], Any]) -> Callable[[], Any]:
        """Return `perform` wrapped by the callbacks' methods for `action`, with the first callback outermost."""
        chain = perform
        for hook in reversed(self._hooks[action]):
            chain = partial(hook, learner, chain)
        return chain

    def by_name(self) -> dict[str, Callback]:
        """Return a dict from names in checkpoints to callbacks, with `#2`, ... appended to repeated names."""
        names: dict[str, Callback] = {}
        for callback in self._ordered:
            kind = callback.state_name or type(callback).__name__
            same = sum((other.state_name or type(other).__name__) == kind for other in names.values())
            names[kind if same == 0 else f"{kind}#{same + 1}"] = callback
        return names
