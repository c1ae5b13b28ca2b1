"""What the optimizers are run on: a model that is only ever copied, its batches, and the loss of a step."""

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

from dashpot.errors import ArgumentError
from dashpot.utils.rng_state import seed_all

__all__ = ["Subject"]

_SEEDS = 2**32


@dataclass(frozen=True)
class Subject:
    """A model in its initial state and what one training step of it is.

    Args:
        model: never trained itself; `copy` gives models to train.
        batches: the batch of each step, used again from the start where there are fewer than steps.
        loss: maps a model and a batch to what should be a loss.
        seed: of what the model draws, such as dropout masks.
    """

    model: nn.Module
    batches: tuple[Any, ...]
    loss: Callable[[nn.Module, Any], Any]
    seed: int

    @classmethod
    def of(
        cls,
        model_or_loss: Any,
        *,
        batches: Iterable[Any] | None,
        loss: Callable[[Any, Any], Any] | None,
        params: Iterable[Tensor] | None,
        steps: int,
        seed: int,
    ) -> Subject:
        """From what a user has: a module, a `Problem`, or a function of tensors.

        Raises:
            ArgumentError: the arguments do not go together, or the model has nothing to train or cannot be copied.
        """
        if _is_problem(model_or_loss):
            _refuse("a Problem", batches=batches, loss=loss, params=params)
            model, function = model_or_loss.model, _on_pairs(model_or_loss.loss)
            drawn = tuple(itertools.islice(_epochs(model_or_loss.train), steps))
        elif isinstance(model_or_loss, nn.Module):
            _refuse("a module", params=params)
            model, function = model_or_loss, _on_batches if loss is None else _on_pairs(loss)
            drawn = _drawn(batches, loss, steps)
        elif callable(model_or_loss):
            _refuse("a function of tensors", batches=batches, loss=loss)
            model, function, drawn = _Function(model_or_loss, params), _on_batches, ((),)
        else:
            raise ArgumentError(
                "verify: model_or_loss must be a torch.nn.Module, a dashpot.tasks.Problem or a function of tensors, "
                f"got {type(model_or_loss).__name__}."
            )
        _check_model(model)
        return cls(_copied(model), drawn, function, seed)

    def copy(self) -> nn.Module:
        """The model in its initial state, without gradients."""
        return _copied(self.model)

    def loss_of(self, model: nn.Module, step: int) -> Tensor:
        """The loss of step 1, 2, ... of `model`, with the batch and the random numbers that every copy gets.

        Raises:
            ArgumentError: it is no tensor with one element that depends on the parameters.
        """
        seed_all((self.seed * 1_000_003 + step) % _SEEDS)
        # A copy, because a model may change its input in place.
        batch = _deep_copied("a batch", self.batches[(step - 1) % len(self.batches)])
        with torch.enable_grad():
            loss = self.loss(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ArgumentError(f"verify: the loss of a batch must be a tensor with one element, got {got}.")
        if not loss.requires_grad:
            raise ArgumentError("verify: the loss of a batch must depend on the model's parameters, got a constant.")
        return loss.reshape(())

    def converted(self, dtype: torch.dtype) -> Subject:
        """With floating-point parameters, buffers and batches in `dtype`; complex tensors stay as they are.

        Raises:
            ArgumentError: a parameter is complex.
        """
        batches = tuple(_converted(batch, dtype) for batch in self.batches)
        return dataclasses.replace(self, model=_converted_model(self.copy(), dtype), batches=batches)


class _Function(nn.Module):
    """A function of tensors as a module whose parameters are copies of these tensors."""

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        super().__init__()
        tensors = [params] if isinstance(params, Tensor) else list(params or ())
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ArgumentError(f"verify: a function of tensors needs params, the tensors to start at, got {params!r}.")
        self.function = function
        self.params = nn.ParameterList([nn.Parameter(tensor.detach().clone()) for tensor in tensors])

    def forward(self) -> Any:
        return self.function(*self.params)


def _is_problem(value: Any) -> bool:
    """Whether it is a `dashpot.tasks.Problem`; a module that nobody has imported has no instances."""
    module = sys.modules.get("dashpot.tasks.task")
    return module is not None and isinstance(value, module.Problem)


def _refuse(kind: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(f"verify: {kind} takes no {name}.")


def _epochs(stream: Any) -> Iterator[Any]:
    for epoch in itertools.count():
        yield from stream.epoch(epoch)


def _drawn(batches: Iterable[Any] | None, loss: Any, steps: int) -> tuple[Any, ...]:
    """The first `steps` batches."""
    if batches is None:
        if loss is not None:
            raise ArgumentError("verify: loss needs batches, pairs of an input and a target.")
        return ((),)
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise ArgumentError(f"verify: batches must be a list of batches or a DataLoader, got {type(batches).__name__}.")
    drawn = tuple(itertools.islice(batches, steps))
    if not drawn:
        raise ArgumentError("verify: batches must hold at least one batch, got none.")
    return drawn


def _on_pairs(loss: Callable[[Any, Any], Any]) -> Callable[[nn.Module, Any], Any]:
    """The loss of a model's output and a target."""
    if not callable(loss):
        raise ArgumentError(f"verify: loss must be a function of (output, target), got {loss!r}.")

    def of_pair(model: nn.Module, batch: Any) -> Any:
        if not isinstance(batch, Sequence) or len(batch) != 2:
            raise ArgumentError(
                "verify: with loss, a batch must be a pair of an input and a target, got "
                f"{type(batch).__name__}; without loss, the model is called with the batch and returns the loss."
            )
        return loss(model(batch[0]), batch[1])

    return of_pair


def _on_batches(model: nn.Module, batch: Any) -> Any:
    """The loss that a model returns by itself, also as the field `loss` of its output."""
    if isinstance(batch, Mapping):
        output = model(**batch)
    else:
        output = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    return output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", output)


def _check_model(model: nn.Module) -> None:
    """Refuse a model with nothing to train, or with nothing to copy yet."""
    lazy = next((name for name, value in [*model.named_parameters(), *model.named_buffers()] if is_lazy(value)), None)
    if lazy is not None:
        raise ArgumentError(f"verify: {lazy} of the model has no shape yet; put a batch through the model first.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ArgumentError("verify: the model must have a parameter that requires a gradient, got none.")


def _copied(model: nn.Module) -> nn.Module:
    made = _deep_copied("the model", model)
    made.zero_grad(set_to_none=True)
    return made


def _deep_copied(what: str, value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ArgumentError(f"verify: {what} cannot be copied ({reason}).") from error


def _converted_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model`, converted in place. `Module.to` would make complex tensors real, such as tables of rotations."""
    for name, p in model.named_parameters():
        if p.is_complex():
            raise ArgumentError(f"verify: dtype cannot be given for a model with complex parameters, such as {name}.")
    for module in model.modules():
        for p in module.parameters(recurse=False):
            p.data = _converted(p.data, dtype)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _converted(buffer, dtype))
    return model


def _converted(value: Any, dtype: torch.dtype) -> Any:
    """`value` with every floating-point tensor in it in `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: _converted(item, dtype) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_converted(item, dtype) for item in value]
    return value
