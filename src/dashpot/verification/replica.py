"""A copy of the model together with the optimizer that trains it."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.errors import ArgumentError
from dashpot.optimizers.second_order_base import SecondOrder
from dashpot.verification.workload import Workload

ARGUMENTS = ("parameters", "named_parameters", "model")
"""Possible arguments of an optimizer factory."""

Gradients = Mapping[str, Tensor]


class Factory:
    """Wrapper of a user function that creates optimizers; every optimizer that the function returns is checked.

    Args:
        argument: Name of the function in messages, such as "make_optimizer".
        function: An optimizer class, or a function that returns an optimizer.
        takes: Kind of argument that the function takes, one of `ARGUMENTS`.

    Raises:
        ArgumentError: If `function` is not callable or, when called, does not return an optimizer of the parameters
            that it received.
    """

    def __init__(self, argument: str, function: Any, takes: str) -> None:
        if not callable(function):
            kind = type(function).__name__
            raise ArgumentError(
                f"verify: {argument} must be a function from parameters to an optimizer, such as "
                f"`lambda params: dp.AdamW(params, lr=1e-3)`, got {kind}."
            )
        self.argument, self.function, self.takes = argument, function, takes

    def __call__(self, model: nn.Module) -> Any:
        argument = model if self.takes == "model" else list(getattr(model, self.takes)())
        optimizer: Any = self.function(argument)
        if not all(hasattr(optimizer, name) for name in ("step", "zero_grad", "param_groups", "state_dict")):
            raise ArgumentError(f"verify: {self.argument} must return an optimizer, got {type(optimizer).__name__}.")
        own = set(model.parameters())
        if not all(p in own for group in optimizer.param_groups for p in group["params"]):
            raise ArgumentError(
                f"verify: {self.argument} must use the {self.takes.replace('_', ' ')} passed to it, which belong to a "
                "copy of the model, got different ones."
            )
        return optimizer


class Replica:
    """A copy of the model with its optimizer.

    Attributes:
        params: Trainable parameters by name.
        seconds: Time in seconds that the optimizer needed for the last step.
        loss: Loss of the last batch, computed before the step.
    """

    def __init__(self, workload: Workload, factory: Factory, init_from: Replica | None = None) -> None:
        """Copy the initial model, or the current weights and buffers of `init_from`."""
        self.workload, self.model = workload, workload.copy()
        self.params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.params.values())).device
        if init_from is not None:
            _copy_tensors(init_from.model, self.model)
        self.optimizer = factory(self.model)
        self._has_backward = _has_backward(self.optimizer)
        self.seconds, self.loss = 0.0, math.nan

    @property
    def needs_only_gradients(self) -> bool:
        """Whether a step needs neither a closure nor Hessian-vector products."""
        return not self._has_backward and not _requires_closure(self.optimizer)

    def compute_gradients(self, step: int) -> dict[str, Tensor]:
        """Return the gradients of step 1, 2, ... by parameter name, and store these gradients in `p.grad`."""
        self._compute_loss(step).backward()
        return {name: p.grad for name, p in self.params.items() if p.grad is not None}

    def set_gradients(self, gradients: Gradients) -> None:
        """Set `p.grad` of each parameter to a copy of its gradient, or to None if it is missing."""
        for name, p in self.params.items():
            p.grad = gradients[name].clone() if name in gradients else None

    def step(self) -> None:
        """Take a step with the gradients in `p.grad`."""
        self._timed(self.optimizer.step)

    def step_with(self, gradients: Gradients) -> None:
        """Take a step with copies of the given gradients."""
        self.set_gradients(gradients)
        self.step()
        self.model.zero_grad(set_to_none=True)

    def train_step(self, step: int) -> None:
        """Take step 1, 2, ... with the replica's own gradients, using a closure or `optimizer.backward` if required."""
        if _requires_closure(self.optimizer):
            self._timed(self.optimizer.step, lambda: self._closure(step))
            return
        if self._has_backward:
            self.optimizer.backward(self._compute_loss(step))
        else:
            self.compute_gradients(step)
        self.step()

    def _closure(self, step: int) -> Tensor:
        loss = self._compute_loss(step)
        loss.backward()
        return loss

    def _compute_loss(self, step: int) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = self.workload.compute_loss(self.model, step)
        self.loss = float(loss.detach())
        return loss

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> None:
        _synchronize(self.device)
        start = time.perf_counter()
        function(*arguments)
        _synchronize(self.device)
        self.seconds = time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@torch.no_grad()
def _copy_tensors(source: nn.Module, target: nn.Module) -> None:
    for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
        values = dict(tensors(source))
        for name, tensor in tensors(target):
            tensor.copy_(values[name])


def _has_backward(optimizer: Any) -> bool:
    """Return whether a newly created optimizer runs the backward pass itself."""
    if isinstance(optimizer, SecondOrder):  # some recipes of SGM do not use Hessian-vector products
        return optimizer.should_create_graph()
    return callable(getattr(optimizer, "backward", None))


def _requires_closure(optimizer: Any) -> bool:
    """Return whether `step` requires a closure, as for LBFGS."""
    # torch wraps the step of the instance for hooks; functools.wraps keeps the signature.
    parameters = list(inspect.signature(optimizer.step).parameters.values())
    return any(p.name == "closure" and p.default is inspect.Parameter.empty for p in parameters)
