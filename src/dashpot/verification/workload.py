"""Training workload of a verification: a model to copy, its batches, and its loss."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dashpot.constraints import shown
from dashpot.errors import ArgumentError
from dashpot.utils.format import reason
from dashpot.utils.rng_state import seed_all

_SEEDS = 2**32


@dataclass(frozen=True)
class Workload:
    """A model in its initial state, its batches and its loss.

    Args:
        model: Initial model; only copies of it are trained.
        batches: Batches for the steps; they are repeated if there are fewer batches than steps.
        loss: Function from a model and a batch to a loss.
        seed: Seed of the model's random numbers, such as dropout masks.
    """

    model: nn.Module
    batches: tuple[Any, ...]
    loss: Callable[[nn.Module, Any], Any]
    seed: int

    @classmethod
    def create(
        cls,
        model_or_loss: Any,
        *,
        batches: Iterable[Any] | None,
        loss: Callable[[Any, Any], Any] | None,
        params: Iterable[Tensor] | None,
        steps: int,
        seed: int,
    ) -> Workload:
        """Create a workload from a module, a `Problem`, or a function of tensors.

        Raises:
            ArgumentError: If the arguments are inconsistent, or the model has no trainable parameter or cannot be
                copied.
        """
        if _is_problem(model_or_loss):
            _reject("a Problem", batches=batches, loss=loss, params=params)
            model, compute_loss = model_or_loss.model, _pair_loss(model_or_loss.loss)
            first_batches = tuple(itertools.islice(_epochs(model_or_loss.train), steps))
        elif isinstance(model_or_loss, nn.Module):
            _reject("a module", params=params)
            model, compute_loss = model_or_loss, _model_loss if loss is None else _pair_loss(loss)
            first_batches = _first_batches(batches, loss, steps)
        elif callable(model_or_loss):
            _reject("a function of tensors", batches=batches, loss=loss)
            model, compute_loss, first_batches = _FunctionModule(model_or_loss, params), _model_loss, ((),)
        else:
            raise ArgumentError(
                "verify: model_or_loss must be a torch.nn.Module, a dashpot.tasks.Problem or a function of tensors, "
                f"got {type(model_or_loss).__name__}."
            )
        _check_model(model)
        return cls(_copy_model(model), first_batches, compute_loss, seed)

    def copy(self) -> nn.Module:
        """Return a copy of the initial model, without gradients."""
        return _copy_model(self.model)

    def compute_loss(self, model: nn.Module, step: int) -> Tensor:
        """Return the loss of step 1, 2, ...; the batch and the random numbers are the same for all copies of the model.

        Raises:
            ArgumentError: If the loss is not a tensor with one element that depends on the parameters.
        """
        seed_all((self.seed * 1_000_003 + step) % _SEEDS)
        # A model may change its input in place.
        batch = _deepcopy("a batch", self.batches[(step - 1) % len(self.batches)])
        with torch.enable_grad():
            loss = self.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ArgumentError(f"verify: the loss of a batch must be a tensor with one element, got {got}.")
        if not loss.requires_grad:
            raise ArgumentError("verify: the loss of a batch must depend on the model's parameters, got a constant.")
        return loss.reshape(())

    def converted(self, dtype: torch.dtype) -> Workload:
        """Return a copy with floating-point parameters, buffers and batches in `dtype`, and complex buffers unchanged.

        Raises:
            ArgumentError: If a parameter is complex.
        """
        batches = tuple(_convert(batch, dtype) for batch in self.batches)
        return dataclasses.replace(self, model=_convert_model(self.copy(), dtype), batches=batches)


class _FunctionModule(nn.Module):
    """Module that evaluates a function of tensors; its parameters are copies of the initial tensors."""

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        super().__init__()
        tensors = [params] if isinstance(params, Tensor) else list(params or ())
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ArgumentError(f"verify: params must be the initial tensors of the function, got {shown(params)}.")
        self.function = function
        self.params = nn.ParameterList([nn.Parameter(tensor.detach().clone()) for tensor in tensors])

    def forward(self) -> Any:
        return self.function(*self.params)


def _is_problem(value: Any) -> bool:
    """Return whether `value` is a `dashpot.tasks.Problem`, without importing that module."""
    module = sys.modules.get("dashpot.tasks.task")
    return module is not None and isinstance(value, module.Problem)


def _reject(kind: str, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ArgumentError(f"verify: {name} must be None for {kind}, got {type(value).__name__}.")


def _epochs(stream: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        yield from stream.epoch(epoch)


def _first_batches(batches: Iterable[Any] | None, loss: Any, steps: int) -> tuple[Any, ...]:
    if batches is None:
        if loss is not None:
            raise ArgumentError("verify: batches must be pairs (input, target) if loss is given, got None.")
        return ((),)
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise ArgumentError(f"verify: batches must be a list of batches or a DataLoader, got {type(batches).__name__}.")
    first_batches = tuple(itertools.islice(batches, steps))
    if not first_batches:
        raise ArgumentError("verify: batches must contain at least one batch, got none.")
    return first_batches


def _pair_loss(loss: Callable[[Any, Any], Any]) -> Callable[[nn.Module, Any], Any]:
    """Return a function that computes the loss of a model for a batch (input, target)."""
    if not callable(loss):
        raise ArgumentError(f"verify: loss must be a function of (output, target), got {shown(loss)}.")

    def compute(model: nn.Module, batch: Any) -> Any:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ArgumentError(
                f"verify: with loss, a batch must be a pair (input, target), got {type(batch).__name__}; without loss, "
                "the model is called with the batch and returns the loss."
            )
        return loss(model(batch[0]), batch[1])

    return compute


def _model_loss(model: nn.Module, batch: Any) -> Any:
    """Return the loss that a model computes for a batch: the output itself, or the field `loss` of the output."""
    if isinstance(batch, Mapping):
        output = model(**batch)
    else:
        output = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    return output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", output)


def _check_model(model: nn.Module) -> None:
    """Check that the model is initialized and has a trainable parameter."""
    lazy = next((name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentError(
            f"verify: the model must be initialized, got uninitialized {lazy}; call the model on a batch first."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ArgumentError("verify: the model must have a parameter that requires a gradient, got none.")


def _copy_model(model: nn.Module) -> nn.Module:
    replica = _deepcopy("the model", model)
    replica.zero_grad(set_to_none=True)
    return replica


def _deepcopy(name: str, value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise ArgumentError(f"verify: {name} cannot be copied ({reason(error)}).") from error


def _convert_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert `model` in place. `Module.to` would discard imaginary parts of complex buffers (rotary embeddings)."""
    for name, p in model.named_parameters():
        if p.is_complex():
            raise ArgumentError(
                f"verify: dtype must be None for models with complex parameters, such as {name}, got {dtype}."
            )
    for module in model.modules():
        for p in module.parameters(recurse=False):
            p.data = _convert(p.data, dtype)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _convert(buffer, dtype))
    return model


def _convert(value: Any, dtype: torch.dtype) -> Any:
    """Convert all floating-point tensors in nested containers to `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _convert(item, dtype) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_convert(item, dtype) for item in value]
    return value
