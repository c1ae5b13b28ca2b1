"""Several optimizers by name; each minimizes its own loss over its own part of the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.training.losses import IGNORE_INDEX
from dashpot.training.plain_optimizer import adapt, is_plain, make_optimizer
from dashpot.utils.group_params import group_params
from dashpot.utils.warn import warn

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


class OptimizerDict(Mapping[str, Optimizer]):
    """Optimizers of a learner by name, in the order of their steps.

    In a training batch, each optimizer in turn runs the actions from `predict` to `zero_grad` with its own loss;
    meanwhile, `learner.opt` is this optimizer, `learner.loop.part` its name, and the parameters of the others have
    `requires_grad` False. At all other times, `learner.opt` is the dict.

    Args:
        optimizers: Optimizers by name.
        model: Model whose trainable parameters the optimizers share out.

    Raises:
        ArgumentError: If two optimizers have a parameter in common, or a trainable parameter has no optimizer.
    """

    def __init__(self, optimizers: Mapping[str, Optimizer], model: nn.Module) -> None:
        self._optimizers = dict(optimizers)
        self._params = {name: group_params(optimizer) for name, optimizer in self._optimizers.items()}
        owners: dict[Tensor, str] = {}
        for name, params in self._params.items():
            for p in params:
                if owners.setdefault(p, name) != name:
                    raise ArgumentError(
                        f"Learner: optimizers must not share parameters, got one of {owners[p]!r} and {name!r}."
                    )
        free = [name for name, p in model.named_parameters() if p.requires_grad and p not in owners]
        if free:
            more = f" and {len(free) - 3} more" if len(free) > 3 else ""
            raise ArgumentError(
                f"Learner: every trainable parameter must have an optimizer, got none for {', '.join(free[:3])}{more}; "
                "set requires_grad=False for parameters that are not trained."
            )

    def __getitem__(self, name: str) -> Optimizer:
        return self._optimizers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._optimizers)

    def __len__(self) -> int:
        return len(self._optimizers)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise ArgumentError(
            f"Learner: {name!r} must be read from one of the optimizers {', '.join(self)}; bind a callback to one with "
            f"ForOptimizer({next(iter(self))!r}, callback)."
        )

    def zero_grad(self) -> None:
        """Clear the gradients of all parameters."""
        for optimizer in self.values():
            optimizer.zero_grad()

    @contextmanager
    def frozen_except(self, name: str) -> Iterator[None]:
        """Set `requires_grad` to False for the parameters of the other optimizers inside the block."""
        frozen = [p for other, params in self._params.items() if other != name for p in params if p.requires_grad]
        for p in frozen:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in frozen:
                p.requires_grad_(True)


@contextmanager
def turn(learner: Learner, name: str | None) -> Iterator[None]:
    """Make `name` the current part of the loss inside the block, and its optimizer that of the learner."""
    optimizers, loop = learner.opt, learner.loop
    outer, loop.part = loop.part, name
    try:
        if isinstance(optimizers, OptimizerDict) and name is not None and learner.training:
            learner.opt = optimizers[name]
            with optimizers.frozen_except(name):
                yield
        else:
            yield
    finally:
        learner.opt, loop.part = optimizers, outer


def make_optimizers(optimizers: Mapping[str, Any], model: nn.Module, lr: Any) -> OptimizerDict:
    """Create the optimizers of a fit.

    Args:
        optimizers: Optimizers or factories by name. The name of a factory is that of a child of the model, whose
            parameters are passed to the factory.
        model: The model.
        lr: Learning rate for the factories, a number or a mapping from names to numbers, or None.

    Raises:
        ArgumentError: If the model has no such child, or `lr` has other names.
    """
    rates = lr if isinstance(lr, Mapping) else dict.fromkeys(optimizers, lr)
    if rates.keys() != optimizers.keys():
        raise ArgumentError(
            f"Learner: lr must be a number or have the names of the optimizers, {_names(optimizers)}, got "
            f"{_names(rates)}."
        )
    made = {name: _make(name, item, model, rates.get(name)) for name, item in optimizers.items()}
    return OptimizerDict(made, model)


def _make(name: str, optimizer: Any, model: nn.Module, lr: float | None) -> Any:
    optimizer = adapt(optimizer, model.parameters())
    if isinstance(optimizer, Optimizer):
        return optimizer
    children = dict(model.named_children())
    if name not in children:
        raise ArgumentError(
            f"Learner: the name of an optimizer factory must be that of a child of the model, {_names(children)}, got "
            f"{name!r}."
        )
    return make_optimizer(optimizer, children[name].parameters(), lr)


def named_optimizers(opt: Any) -> Mapping[str, Any]:
    """Return the optimizers of a learner by name; a single optimizer has the name ""."""
    return opt if isinstance(opt, OptimizerDict) else {"": opt}


def check_optimizer(opt: Any) -> None:
    """Check that an object is an optimizer whose `step` needs no closure.

    Raises:
        ArgumentError: If it is not.
    """
    if not isinstance(opt, Optimizer):
        raise ArgumentError(
            "Learner: optimizer must return a torch.optim.Optimizer or an object with step and zero_grad, got "
            f"{shown(opt)}."
        )
    closure = inspect.signature(opt.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:  # as in L-BFGS
        raise ArgumentError(
            f"Learner: optimizer must support step() without a closure, got {type(opt).__name__}, which requires one."
        )


def check_losses(optimizer: Any, loss: Any, evaluation_loss: Any, weight: Any) -> None:
    """Check the optimizer and the loss of a learner, or several optimizers and a loss for each.

    Raises:
        ArgumentError: If an argument has the wrong type, only one of them is a mapping, or their names differ.
    """
    for name, functions in (("loss", loss), ("evaluation_loss", evaluation_loss)):
        if functions is None and name == "evaluation_loss":
            continue
        _check_names(optimizer, functions, name)
        for function in functions.values() if isinstance(functions, Mapping) else [functions]:
            if not callable(function):
                raise ArgumentError(f"Learner: {name} must be a function of (output, y), got {shown(function)}.")
            if isinstance(function, type) and issubclass(function, nn.Module):
                kind = function.__name__
                raise ArgumentError(f"Learner: {name} must be an instance, such as {kind}(), got the class {kind}.")
            if weight is None and not isinstance(functions, Mapping):
                _warn_of_weighted_mean(function)
    for item in optimizer.values() if isinstance(optimizer, Mapping) else [optimizer]:
        if not isinstance(item, Optimizer) and not callable(item) and not is_plain(item):
            raise ArgumentError(f"Learner: optimizer must be a torch optimizer or a factory, got {shown(item)}.")
    if isinstance(optimizer, Mapping) and weight is not None:
        raise ArgumentError(
            "Learner: weight must be None with several optimizers, whose losses are means over examples."
        )


def _warn_of_weighted_mean(loss: Any) -> None:
    """Warn if a loss module of torch returns a mean over class weights or labels that are not ignored."""
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or loss.reduction != "mean":
        return
    kind, ignores = type(loss).__name__, loss.ignore_index != IGNORE_INDEX
    if loss.weight is None and not ignores:
        return
    option = "class weights" if loss.weight is not None else f"ignore_index={loss.ignore_index}"
    count = "loss.weight[y].sum()" if loss.weight is not None else f"(y != {loss.ignore_index}).sum()"
    warn(
        f"Learner: the mean of {kind} with {option} is not over examples, so results depend on the batch size. Pass "
        f"weight=lambda output, y: {count}{', without ignored labels' if loss.weight is not None and ignores else ''}."
    )


def _check_names(optimizers: Any, losses: Any, owner: str) -> None:
    if not isinstance(optimizers, Mapping) and not isinstance(losses, Mapping):
        return
    if not isinstance(optimizers, Mapping) or not isinstance(losses, Mapping) or list(optimizers) != list(losses):
        raise ArgumentError(
            f"Learner: with several optimizers, optimizer and {owner} must be mappings with the same names in the same "
            f"order, got {_names(optimizers)} and {_names(losses)}."
        )
    if not optimizers or not all(isinstance(name, str) and name for name in optimizers):
        raise ArgumentError(f"Learner: the names of optimizers must be non-empty strings, got {_names(optimizers)}.")


def _names(items: Any) -> str:
    return ", ".join(map(repr, items)) or "none" if isinstance(items, Mapping) else f"one {type(items).__name__}"
