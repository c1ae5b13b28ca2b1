"""One optimizer on its own copy of the model."""

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
from dashpot.verification.subject import Subject

__all__ = ["ARGUMENTS", "Maker", "Side", "synchronized"]

ARGUMENTS = ("parameters", "named_parameters", "model")
"""What a maker can be called with."""

Gradients = Mapping[str, Tensor]


class Maker:
    """A function of the user's that makes an optimizer, checked whenever it is called.

    Args:
        argument: the name of the function in messages, such as "make_optimizer".
        function: an optimizer class or a function that returns an optimizer.
        takes: what it is called with, one of `ARGUMENTS`.
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
        given = model if self.takes == "model" else list(getattr(model, self.takes)())
        optimizer: Any = self.function(given)
        if not all(hasattr(optimizer, name) for name in ("step", "zero_grad", "param_groups", "state_dict")):
            raise ArgumentError(f"verify: {self.argument} must return an optimizer, got {type(optimizer).__name__}.")
        own = set(model.parameters())
        if not all(p in own for group in optimizer.param_groups for p in group["params"]):
            raise ArgumentError(
                f"verify: {self.argument} must use the {self.takes.replace('_', ' ')} it is called with, which belong "
                "to a copy of the model; it used others."
            )
        return optimizer


class Side:
    """A copy of the model and the optimizer that trains it.

    `seconds` is what the optimizer's part of the last step took, `loss` the loss of the last batch, before that step.
    """

    def __init__(self, subject: Subject, make: Maker, like: Side | None = None) -> None:
        """`like` is the side whose present weights and buffers it starts with, instead of the initial ones."""
        self.subject, self.model = subject, subject.copy()
        self.params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if like is not None:
            _copy_tensors(self.model, like.model)
        self.optimizer = make(self.model)
        self._takes_products = _takes_products(self.optimizer)
        self.seconds, self.loss = 0.0, math.nan

    @property
    def follows(self) -> bool:
        """Whether gradients are all that a step needs: no closure, no Hessian-vector product."""
        return not self._takes_products and not _needs_closure(self.optimizer)

    def gradients(self, step: int) -> dict[str, Tensor]:
        """The gradients of step 1, 2, ..., which stay in `p.grad` as well."""
        self._loss(step).backward()
        return {name: p.grad for name, p in self.params.items() if p.grad is not None}

    def move(self) -> None:
        """Take a step along the gradients that are there."""
        self._timed(self.optimizer.step)

    def follow(self, gradients: Gradients) -> None:
        """Take a step along copies of these gradients."""
        for name, p in self.params.items():
            p.grad = gradients[name].clone() if name in gradients else None
        self.move()
        self.model.zero_grad(set_to_none=True)

    def train(self, step: int) -> None:
        """Take step 1, 2, ... along its own gradients, in the way the optimizer needs it."""
        if _needs_closure(self.optimizer):
            self._timed(self.optimizer.step, lambda: self._closure(step))
            return
        if self._takes_products:
            self.optimizer.backward(self._loss(step))
        else:
            self.gradients(step)
        self.move()

    def _closure(self, step: int) -> Tensor:
        loss = self._loss(step)
        loss.backward()
        return loss

    def _loss(self, step: int) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = self.subject.loss_of(self.model, step)
        self.loss = float(loss.detach())
        return loss

    def _timed(self, function: Callable[..., Any], *arguments: Any) -> None:
        device = next(iter(self.params.values())).device
        synchronized(device)
        start = time.perf_counter()
        function(*arguments)
        synchronized(device)
        self.seconds = time.perf_counter() - start


def synchronized(device: torch.device) -> None:
    """Wait for what an accelerator still has to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@torch.no_grad()
def _copy_tensors(to: nn.Module, of: nn.Module) -> None:
    for tensors in (nn.Module.named_parameters, nn.Module.named_buffers):
        values = dict(tensors(of))
        for name, tensor in tensors(to):
            tensor.copy_(values[name])


def _takes_products(optimizer: Any) -> bool:
    """Whether an optimizer without any step so far wants to run the backward pass itself."""
    if isinstance(optimizer, SecondOrder):  # some recipes of SGM do not observe products
        return optimizer.should_create_graph()
    return callable(getattr(optimizer, "backward", None))


def _needs_closure(optimizer: Any) -> bool:
    """Whether `step` cannot be called without a closure, as that of LBFGS."""
    # The instance's step is wrapped by torch for hooks; functools.wraps keeps the signature.
    parameters = list(inspect.signature(optimizer.step).parameters.values())
    return any(p.name == "closure" and p.default is inspect.Parameter.empty for p in parameters)
